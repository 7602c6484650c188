#!/usr/bin/env bash
# Formats the data folder once, then runs the broker on the mounted configuration. Part of the image
# that `offline.sh kafka` makes.
set -euo pipefail
configuration=/mnt/shared/config/server.properties
java=(/opt/jre/bin/java ${KAFKA_HEAP_OPTS:--Xms256m -Xmx512m} -XX:+UseG1GC -Djava.awt.headless=true
      -Dlog4j2.configurationFile=/opt/log4j2.properties -cp '/opt/kafka/libs/*')
[ -f /var/lib/kafka/data/meta.properties ] || "${java[@]}" kafka.tools.StorageTool format \
  --cluster-id="$(head -c 16 /dev/urandom | basenc --base64url | tr -d =)" -c "$configuration" >/dev/null
exec "${java[@]}" kafka.Kafka "$configuration"
