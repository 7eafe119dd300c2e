# The images of the operator and the projector: `docker build --target operator .`, `docker build --target projector .`
#
# Each is a base image with Python, one layer with the locked dependencies, and one small layer with the project: after a
# change of source only the last is new. What is needed to build (pip, hatchling) is not in the result. Everything is
# compiled to bytecode here, because nothing can be written later: the root file system is read-only and the user is
# nobody in particular.
#
# Any image with Python 3.11 or newer as `python3`, its venv module and CA certificates will do as a base.
ARG BASE_IMAGE=python:3.13-slim-bookworm

FROM ${BASE_IMAGE} AS tools
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_ROOT_USER_ACTION=ignore
COPY requirements/build.lock /tools/
RUN python3 -m venv /tools && /tools/bin/python -m pip install --require-hashes -r /tools/build.lock

# Below /project is what the project adds to /opt/venv.
FROM tools AS project
WORKDIR /build
COPY . ./
RUN python3 -m venv --without-pip /opt/venv \
 && /tools/bin/python -m pip wheel --no-deps --no-build-isolation --wheel-dir dist . \
 && /tools/bin/python -m pip --python /opt/venv/bin/python install --no-deps --no-compile --prefix /project/opt/venv dist/*.whl \
 && python3 -m compileall -q --invalidation-mode unchecked-hash -s /project /project

FROM ${BASE_IMAGE} AS runtime
# Some bases come without the bytecode of the standard library.
RUN python3 -m compileall -q -x '/(test|tests|idlelib|lib2to3|turtledemo|site-packages|dist-packages)/' \
    "$(python3 -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')"
ENV PATH=/opt/venv/bin:${PATH} PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /
ARG VERSION=unknown
LABEL org.opencontainers.image.vendor="Bento Outbox" org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"

FROM runtime AS operator
LABEL org.opencontainers.image.title="Bento Outbox operator" \
      org.opencontainers.image.description="Runs one projector for each OutboxTenant of a Kubernetes cluster."
ENTRYPOINT ["outbox-operator"]
CMD ["run"]
COPY requirements/operator.lock /opt/venv/requirements.lock
RUN python3 -m venv /opt/venv \
 && /opt/venv/bin/python -m pip install --no-cache-dir --no-compile --require-hashes -r /opt/venv/requirements.lock \
 && /opt/venv/bin/python -m pip uninstall --yes --quiet pip setuptools \
 && python3 -m compileall -q --invalidation-mode unchecked-hash /opt/venv/lib
USER 65532:65532
COPY --from=project /project /

FROM runtime AS projector
LABEL org.opencontainers.image.title="Bento Outbox projector" \
      org.opencontainers.image.description="Delivers a tenant's events from its outbox table to Apache Pulsar."
ENTRYPOINT ["outbox-projector"]
CMD ["run"]
COPY requirements/projector.lock /opt/venv/requirements.lock
RUN python3 -m venv /opt/venv \
 && /opt/venv/bin/python -m pip install --no-cache-dir --no-compile --require-hashes -r /opt/venv/requirements.lock \
 && /opt/venv/bin/python -m pip uninstall --yes --quiet pip setuptools \
 && python3 -m compileall -q --invalidation-mode unchecked-hash /opt/venv/lib
USER 65532:65532
COPY --from=project /project /
