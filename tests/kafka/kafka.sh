#!/usr/bin/env bash
# kafka.sh fetch      Apache Kafka's jars out of Maven Central into var/kafka-libs, digests checked
# kafka.sh run DIR    one broker (KRaft, Java 17) on 127.0.0.1:$KAFKA_PORT, its data in DIR
# kafka.sh pin        write jars.sha256 anew, after a version in pom.xml has changed
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
libs=${KAFKA_LIBS:-$(cd "$here/../.." && pwd)/var/kafka-libs}
port=${KAFKA_PORT:-29092} controller=${KAFKA_CONTROLLER_PORT:-29093}

copy() {
  mkdir -p "$libs"
  rm -f "$libs"/*.jar  # a jar that is no longer named must not stay on the class path
  mvn -B -q -f "$here/pom.xml" dependency:copy-dependencies -Dlibs="$libs"
}
intact() {  # every listed jar there with its digest, and no other
  [ -d "$libs" ] && (cd "$libs" && sha256sum --check --quiet --strict "$here/jars.sha256" >/dev/null 2>&1 &&
    diff -q <(ls ./*.jar | sed 's#^\./##' | LC_ALL=C sort) <(sed 's/^[0-9a-f]*  //' "$here/jars.sha256" | LC_ALL=C sort) >/dev/null)
}
java=(java -Xms128m "-Xmx${KAFKA_HEAP:-512m}" -XX:+UseSerialGC -Djava.awt.headless=true
      "-Dlog4j2.configurationFile=$here/log4j2.properties" -cp "$libs/*")

case ${1:?fetch, run DIR or pin} in
  fetch)
    intact && exit 0
    echo "fetching Apache Kafka from Maven Central (43 MB)"
    copy
    intact || { echo "the jars in $libs are not those of jars.sha256: not used" >&2
                rm -f "$libs"/*.jar; exit 1; } ;;
  pin)
    copy
    (cd "$libs" && sha256sum ./*.jar | sed 's#  \./#  #' | LC_ALL=C sort -k2) > "$here/jars.sha256" ;;
  run)
    intact || { echo "run 'make kafka-jars' first" >&2; exit 1; }
    mkdir -p "${2:?the folder of the broker\'s data}"; data=$(cd "$2" && pwd)
    sed "s#@DATA@#$data/log#; s#@PORT@#$port#g; s#@CONTROLLER@#$controller#g" \
      "$here/server.properties" > "$data/server.properties"
    [ -f "$data/log/meta.properties" ] || "${java[@]}" kafka.tools.StorageTool format --standalone \
      --cluster-id="$(head -c 16 /dev/urandom | basenc --base64url | tr -d =)" -c "$data/server.properties" >/dev/null
    exec "${java[@]}" kafka.Kafka "$data/server.properties" ;;
  *) sed -n '2,4s/^# //p' "$0" >&2; exit 2 ;;
esac
