# Airflow with this project's DAGs, every client tool that they call, and the servers of a drill. No secret is in it, and it runs as no root.
# The base images can be replaced, for a mirror or an image of your own: --build-arg PYTHON_IMAGE=...
ARG PYTHON_IMAGE=python:3.12.11-slim-bookworm
ARG GO_IMAGE=golang:1.24.4-bookworm
ARG MONGO_IMAGE=mongo:6.0.20

FROM ${GO_IMAGE} AS mongo-tools
WORKDIR /src
COPY tools/mongo/ ./
ENV CGO_ENABLED=0 GOFLAGS=-mod=readonly GOTOOLCHAIN=local
RUN set -eu; \
    version=$(go list -m -f '{{.Version}}' github.com/mongodb/mongo-tools); \
    for tool in mongodump mongorestore bsondump; do \
        go build -trimpath -ldflags "-X main.VersionStr=${version#v}" -o "/out/$tool" "github.com/mongodb/mongo-tools/$tool/main"; \
    done

FROM ${PYTHON_IMAGE} AS packages
COPY requirements.txt ./
# the lock file names everything, so nothing is resolved here
RUN python -m venv /opt/venv && /opt/venv/bin/pip install --no-cache-dir --no-deps --requirement requirements.txt

# the server for drills
FROM ${MONGO_IMAGE} AS mongo
RUN cp "$(command -v mongod)" /mongod

FROM ${PYTHON_IMAGE}
# pg_dump must be of the server's own major version, or its dumps can't be restored there
ARG POSTGRES_MAJORS="14 15 16 17 18"
# of these there are servers, too, for drills
ARG DRILL_POSTGRES_MAJORS="18"
# where they come from: PostgreSQL's own packages (pgdg), or those of the base image's distribution, which has one version
ARG POSTGRES_PACKAGES=pgdg
RUN set -eu; \
    apt-get update; \
    apt-get install --yes --no-install-recommends age ca-certificates libcurl4 openssl postgresql-common tar zstd; \
    sed -i 's/^#\?create_main_cluster.*/create_main_cluster = false/' /etc/postgresql-common/createcluster.conf; \
    case "$POSTGRES_PACKAGES" in \
        pgdg) /usr/share/postgresql-common/pgdg/apt.postgresql.org.sh -y ;; \
        distribution) ;; \
        *) echo "POSTGRES_PACKAGES must be pgdg or distribution" >&2; exit 1 ;; \
    esac; \
    for major in $POSTGRES_MAJORS; do apt-get install --yes --no-install-recommends "postgresql-client-$major"; done; \
    for major in $DRILL_POSTGRES_MAJORS; do apt-get install --yes --no-install-recommends "postgresql-$major"; done; \
    rm -rf /var/lib/apt/lists/*
COPY --from=mongo /mongod /usr/local/bin/mongod
COPY --from=mongo-tools /out/ /usr/local/bin/
COPY --from=packages /opt/venv /opt/venv

# Any user id may run it, as long as its group is 0, so that it can be the one that owns the files to back up. Only the one that
# has a name here can run drills: initdb refuses others.
ARG RECOVERY_UID=50000
RUN set -eu; \
    useradd --uid "$RECOVERY_UID" --non-unique --gid 0 --home-dir /opt/airflow --no-create-home airflow; \
    for folder in /opt/airflow /opt/airflow/logs /var/lib/recovery/staging /var/backups/openmanus; do \
        mkdir -p "$folder"; chown "$RECOVERY_UID:0" "$folder"; chmod 0770 "$folder"; \
    done
WORKDIR /opt/recovery
COPY LICENSE ./
COPY plugins plugins
COPY include include
COPY dags dags
COPY tools/compose tools/compose
COPY sandbox/sample.py sandbox/sample.py
COPY sandbox/sample.sql sandbox/sample.sql
COPY tools/install.py tools/install.py
# compiled here, since those who run it can't write here: else every task compiles all of it
RUN /opt/venv/bin/python tools/install.py && /opt/venv/bin/python -m compileall -q include dags plugins tools sandbox

ENV PATH=/opt/venv/bin:$PATH \
    LANG=C.UTF-8 \
    PYTHONUNBUFFERED=1 \
    HOME=/opt/airflow \
    USER=airflow \
    AIRFLOW_HOME=/opt/airflow \
    AIRFLOW__CORE__DAGS_FOLDER=/opt/recovery/dags \
    AIRFLOW__CORE__PLUGINS_FOLDER=/opt/recovery/plugins \
    AIRFLOW__CORE__LOAD_EXAMPLES=false \
    RECOVERY_PLANS=/opt/recovery/include/plans \
    RECOVERY_STAGING=/var/lib/recovery/staging
USER ${RECOVERY_UID}:0
ENTRYPOINT ["airflow"]
CMD ["version"]
