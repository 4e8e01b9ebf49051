# syntax=docker/dockerfile:1
# The service (the last stage), and with `--target sandbox` the local Registry for tests. Pinned dependencies in
# a layer of their own, then the program, run as a numeric user.
#   --build-arg LOCK=sqs          adds boto3, for BROKER_URL=sqs://
#   --build-arg BASE_IMAGE=python:3.12-slim@sha256:...   names the base by digest, for a build that can be repeated
ARG BASE_IMAGE=python:3.12-slim

FROM ${BASE_IMAGE} AS build
ARG LOCK=run
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src

# The environment that ships has no pip of its own: the tools stay in this stage.
RUN python -m venv /opt/build && python -m venv --without-pip /opt/journey-consumer
COPY requirements/${LOCK}.lock requirements/build.lock requirements/
RUN /opt/build/bin/python -m pip install --no-deps --require-hashes -r requirements/build.lock \
    && /opt/build/bin/python -m pip --python /opt/journey-consumer/bin/python install \
        --no-compile --no-deps --require-hashes -r "requirements/${LOCK}.lock" \
    && /opt/journey-consumer/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash \
        /opt/journey-consumer/lib

COPY pyproject.toml README.md LICENSE ./
COPY consumer consumer
COPY schemas schemas
# The sandbox and the demo are an extra: the service's image holds neither them nor their web server.
RUN mkdir extra && mv consumer/sandbox consumer/demo extra/ \
    && /opt/build/bin/python -m pip wheel --no-deps --no-build-isolation --wheel-dir dist . \
    && /opt/build/bin/python -m pip --python /opt/journey-consumer/bin/python install \
        --no-compile --no-deps --prefix /opt/program dist/*.whl \
    && /opt/journey-consumer/bin/python -m compileall -q --invalidation-mode unchecked-hash \
        -s /opt/program -p /opt/journey-consumer /opt/program/lib

FROM build AS build-sandbox
COPY requirements/sandbox.lock requirements/
RUN /opt/build/bin/python -m pip --python /opt/journey-consumer/bin/python install \
        --no-deps --require-hashes -r requirements/sandbox.lock \
    && cp -r extra/* /opt/program/lib/python3*/site-packages/consumer/ \
    && /opt/journey-consumer/bin/python -m compileall -q --invalidation-mode unchecked-hash \
        -s /opt/program -p /opt/journey-consumer /opt/program/lib

FROM ${BASE_IMAGE} AS base
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="journey-consumer" \
      org.opencontainers.image.description="Delivers carpool journeys from a message queue to the Registre de preuve de covoiturage" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
ENV PATH=/opt/journey-consumer/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 65532:65532
ENTRYPOINT ["journey-consumer"]

FROM base AS sandbox
COPY --from=build-sandbox /opt/journey-consumer /opt/journey-consumer
COPY --from=build-sandbox /opt/program /opt/journey-consumer
EXPOSE 8080
CMD ["sandbox", "--host", "0.0.0.0"]

FROM base
COPY --from=build /opt/journey-consumer /opt/journey-consumer
COPY --from=build /opt/program /opt/journey-consumer
EXPOSE 8000
CMD ["run"]
