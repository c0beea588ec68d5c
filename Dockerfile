# Debian bookworm, as later releases no longer have openjdk-17; and the Python that the tests run on.
FROM python:3.11-slim-bookworm AS base


# pyspark comes as source and is built into a wheel: what that needs stays behind in this stage, and
# so does what no training touches.
FROM base AS packages
COPY requirements.lock deploy/prune-packages.sh /tmp/
RUN python -m venv --without-pip /opt/venv \
    && python -m pip --python /opt/venv/bin/python install --no-cache-dir \
        --require-hashes -r /tmp/requirements.lock \
    && sh /tmp/prune-packages.sh /opt/venv


FROM base

LABEL org.opencontainers.image.title="Restaurant Recommender Model Service" \
      org.opencontainers.image.description="Trains restaurant recommendations (Spark ALS) and user clusters (K-Means) from reviews in MongoDB" \
      org.opencontainers.image.licenses="MIT"

# The one folder that is written to: logs and Spark's files. It is the user's home, too, and the
# folder for temporary files, so that nothing asks for /tmp.
ENV WORK_DIR=/var/lib/recommender

# With OpenBLAS, Spark's ALS of many factors takes half the time.
#
# A slim base may lack the folder for manual pages, without which the JRE's package fails to install.
# It lacks bytecode of the standard library, and a read-only root could never keep it: every process
# would compile what it imports.
RUN mkdir -p /usr/share/man/man1 \
    && apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
        libopenblas0-serial openjdk-17-jre-headless tini \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/apt /var/log/*.log /tmp/* \
    && python -m compileall -q -x '/(site-packages|lib2to3|tests?)/' \
        "$(python -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')" \
    && groupadd --gid 10001 recommender \
    && useradd --uid 10001 --gid 10001 --no-log-init --no-create-home --home-dir "$WORK_DIR" \
        --shell /usr/sbin/nologin recommender \
    && install --directory --owner 10001 --group 10001 --mode 0750 "$WORK_DIR"

COPY --from=packages /opt/venv /opt/venv

WORKDIR /app
COPY LICENSE *.py ./
COPY recommender recommender/
# Bytecode that is checked by content holds, whatever a builder makes of the files' times; and a
# checkout that only its owner may read becomes readable.
RUN chmod -R a+rX . && python -m compileall -q --invalidation-mode checked-hash .

# The JVM's options keep its performance counters, which nothing here reads, from going to /tmp.
ENV PATH=/opt/venv/bin:$PATH \
    LANG=C.UTF-8 \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    TMPDIR=$WORK_DIR \
    SPARK_LAUNCHER_OPTS=-XX:-UsePerfData \
    SPARK_SUBMIT_OPTS=-XX:-UsePerfData \
    HOST=0.0.0.0 \
    PORT=8080

USER 10001:10001
VOLUME $WORK_DIR
EXPOSE 8080
# A running training has STOP_GRACE_SECONDS, 7 unless set, of the 10 that `docker stop` waits.
STOPSIGNAL SIGTERM

# http.client, unlike urllib.request, heeds no proxy that the environment may name.
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-IS", "-c", "import http.client, os, sys; c = http.client.HTTPConnection(os.environ.get('HOST') or '127.0.0.1', int(os.environ.get('PORT') or 8080), timeout=4); c.request('GET', '/health/live'); sys.exit(c.getresponse().status != 200)"]

ENTRYPOINT ["/usr/bin/tini", "--"]
CMD ["python", "model.py"]
