# syntax=docker/dockerfile:1
# The service alone: pinned dependencies in a layer of their own, then the program, run as a numeric user.
# For a build that can be repeated, name the base by digest: --build-arg BASE_IMAGE=python:3.12-slim@sha256:...
ARG BASE_IMAGE=python:3.12-slim

FROM ${BASE_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src

# The environment that ships has no pip of its own: the tools stay in this stage.
RUN python -m venv /opt/build && python -m venv --without-pip /opt/journey-consumer
COPY requirements/run.lock requirements/build.lock requirements/
# Of the phone numbers' metadata only the rules are used: names of places and carriers are 45 MB.
RUN /opt/build/bin/python -m pip install --no-deps --require-hashes -r requirements/build.lock \
    && /opt/build/bin/python -m pip --python /opt/journey-consumer/bin/python install \
        --no-compile --no-deps --require-hashes -r requirements/run.lock \
    && rm -r /opt/journey-consumer/lib/python3*/site-packages/phonenumbers/geodata \
        /opt/journey-consumer/lib/python3*/site-packages/phonenumbers/carrierdata \
    && /opt/journey-consumer/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash \
        /opt/journey-consumer/lib

COPY pyproject.toml README.md LICENSE ./
COPY consumer consumer
COPY schemas schemas
RUN /opt/build/bin/python -m pip wheel --no-deps --no-build-isolation --wheel-dir dist . \
    && /opt/build/bin/python -m pip --python /opt/journey-consumer/bin/python install \
        --no-compile --no-deps --prefix /opt/program dist/*.whl \
    && /opt/journey-consumer/bin/python -m compileall -q --invalidation-mode unchecked-hash \
        -s /opt/program -p /opt/journey-consumer /opt/program/lib

FROM ${BASE_IMAGE}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="journey-consumer" \
      org.opencontainers.image.description="Delivers carpool journeys from a message queue to the Registre de preuve de covoiturage" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
ENV PATH=/opt/journey-consumer/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
COPY --from=build /opt/journey-consumer /opt/journey-consumer
COPY --from=build /opt/program /opt/journey-consumer
USER 65532:65532
EXPOSE 8000
ENTRYPOINT ["journey-consumer"]
CMD ["run"]
