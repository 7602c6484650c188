#!/bin/bash
# ready.sh PORT — succeeds once the room that listens there is ready. In bash and not in Python: it
# is asked every few seconds.
exec 3<>"/dev/tcp/127.0.0.1/$1" || exit 1
printf 'GET /readyz HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n' >&3
read -r -t 4 _ status _ <&3 && [ "$status" = 200 ]
