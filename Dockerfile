# SPDX-License-Identifier: Apache-2.0
#
# One target per binary:
#   docker build --target apiserver --tag hsm-apiserver .
#   docker build --target agent --tag hsm-agent .
# The images that they start from can be replaced: --build-arg DEBIAN_IMAGE=...
ARG GO_IMAGE=golang:1.26-bookworm
ARG DEBIAN_IMAGE=debian:bookworm-slim

FROM ${GO_IMAGE} AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY cmd/ cmd/
COPY pkg/ pkg/
COPY artifacts/image/ artifacts/image/
# Only the agent needs C: it loads the PKCS#11 module.
RUN CGO_ENABLED=0 go build -tags=grpcnotrace -trimpath -ldflags="-s -w" -o /out/ ./cmd/apiserver ./cmd/controller ./cmd/discovery ./artifacts/image/ccidreaders
RUN CGO_ENABLED=1 go build -tags=grpcnotrace -trimpath -ldflags="-s -w" -o /out/agent ./cmd/agent

FROM scratch AS apiserver
COPY --from=build /out/apiserver /apiserver
USER 65532:65532
ENTRYPOINT ["/apiserver"]

FROM scratch AS controller
COPY --from=build /out/controller /controller
USER 65532:65532
ENTRYPOINT ["/controller"]

FROM scratch AS discovery
COPY --from=build /out/discovery /discovery
USER 65532:65532
ENTRYPOINT ["/discovery"]

FROM ${DEBIAN_IMAGE} AS agent
# OpenSC speaks to smart cards through pcscd, which runs beside the agent, from the
# same image; SoftHSM is a token in files. The link is there on all architectures.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends opensc-pkcs11 libccid libpcsclite1 pcscd softhsm2 \
    && ln -s /usr/lib/*/opensc-pkcs11.so /usr/lib/opensc-pkcs11.so \
    && rm -rf /var/lib/apt/lists/*
# libccid learns the tokens that discovery knows, and pcscd that no polkit runs here.
RUN --mount=type=bind,from=build,source=/out/ccidreaders,target=/ccidreaders \
    --mount=type=bind,from=build,source=/src/artifacts/image,target=/image \
    /ccidreaders /etc/libccid_Info.plist \
    && /image/disable-polkit.sh /usr/sbin/pcscd
COPY artifacts/image/opensc.conf /etc/opensc/opensc.conf
COPY --from=build /out/agent /agent
USER 65532:65532
ENTRYPOINT ["/agent"]
