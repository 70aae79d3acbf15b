# docker buildx build --platform linux/amd64,linux/arm64 --sbom=true --provenance=true --tag NAME:TAG --push .
# The gate's own image: the same with --target gate --tag NAME-gate:TAG.
# The harness, for the chart's bench.enabled: the same with --target bench --tag NAME:TAG-bench.

# Debian's image of 2026-08-03, for all platforms; the digest decides, the tag is for readers. The digest of a newer one:
# docker buildx imagetools inspect debian:bookworm
ARG BASE=debian:bookworm-20260803@sha256:813017f3d62be4b5891a7acca6a01bdcd4b8513daa81b1ab99d3a50385b26931

FROM $BASE AS build
# The SBOM is made of this stage, where packages still have names: Debian's, and npm's of the bundle.
ARG BUILDKIT_SBOM_SCAN_STAGE=true
# What ./setup would install as root, without what linting and fuzzing need; as another user it tells what lacks.
RUN apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
      ca-certificates g++ iproute2 iptables libip4tc-dev libip6tc-dev libiptc-dev make nftables \
      nodejs npm openssl pkg-config python3 util-linux \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --create-home build \
 && install --directory --owner build /home/build/src
USER build
WORKDIR /home/build/src
COPY --chown=build . .
RUN npm run build:image-root -- /home/build/image

# The harness (chart/image/bench.ts). It makes network and mount namespaces, so it needs root and what the chart's Job has.
FROM build AS build-bench
RUN npm run build:image-root -- --bench /home/build/bench

FROM scratch AS bench
COPY --from=build-bench --chown=0:0 /home/build/bench /
ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
ENTRYPOINT ["/usr/local/bin/node","/app/bench/main.ts"]

# The gate alone (chart/image/files.ts), for every pod of the mesh: --target gate --tag NAME-gate:TAG.
FROM build AS build-gate
RUN npm run build:image-root -- --gate /home/build/gate

FROM scratch AS gate
COPY --from=build-gate --chown=0:0 /home/build/gate /
USER 1337:1337
ENTRYPOINT ["/pod-network-gate"]

# No shell, no package manager, nothing that the controller and the gate do not use: chart/image/files.ts is the list.
FROM scratch AS controller
COPY --from=build --chown=0:0 /home/build/image /
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG CREATED=1970-01-01T00:00:00Z
LABEL org.opencontainers.image.title="istio-pod-network-controller" \
      org.opencontainers.image.description="Installs Istio's redirect rules in pods' network namespaces, so that pods need no privilege" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.created="$CREATED" \
      org.opencontainers.image.licenses="Apache-2.0 AND GPL-2.0-or-later AND LGPL-2.1-or-later AND MIT"
ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin MALLOC_ARENA_MAX=1 MALLOC_TRIM_THRESHOLD_=131072
# The gate's. The controller's DaemonSet says runAsUser: 0, and drops all capabilities but three.
USER 1337:1337
ENTRYPOINT ["/app/lib/main.js"]
