#!/bin/bash
# Makes the root user at the first start, and then runs the server as its own user.
set -euo pipefail
if [ "$(id -u)" = 0 ]; then
    chown -R mongodb /data/db /data/configdb
    exec gosu mongodb "$0" "$@"
fi
if [ -n "${MONGO_INITDB_ROOT_USERNAME:-}" ] && [ ! -e /data/db/WiredTiger ]; then
    : "${MONGO_INITDB_ROOT_PASSWORD:?set MONGO_INITDB_ROOT_PASSWORD}"
    mongod --dbpath /data/db --bind_ip 127.0.0.1 --port 27018 --fork --logpath /tmp/first-start.log >/dev/null
    mongosh --quiet --port 27018 admin --eval '
        db.createUser({user: process.env.MONGO_INITDB_ROOT_USERNAME, pwd: process.env.MONGO_INITDB_ROOT_PASSWORD, roles: ["root"]})' >/dev/null
    mongod --dbpath /data/db --shutdown >/dev/null
fi
exec "$@"
