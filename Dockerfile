# docker build -t inferd .
# docker run -p 8000:8000 -v ~/.cache/inferd/models:/models inferd gemma-3-270m-q4_k_m
FROM debian:12-slim AS build
RUN apt-get update && apt-get install -y --no-install-recommends \
      gcc libc6-dev meson ninja-build pkg-config libmicrohttpd-dev libcjson-dev libpcre2-dev libutf8proc-dev libmd-dev \
    && rm -rf /var/lib/apt/lists/*
COPY . /src
RUN meson setup /build /src --buildtype=release -Dtests=disabled --prefix=/usr --strip \
    && meson install -C /build --destdir /out

FROM debian:12-slim
RUN apt-get update && apt-get install -y --no-install-recommends \
      libmicrohttpd12 libcjson1 libpcre2-8-0 libutf8proc2 libmd0 curl \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin inferd
COPY --from=build /out/usr/ /usr/
ENV INFERD_HOST=0.0.0.0 INFERD_MODELS=/models
USER 10001
VOLUME /models
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s CMD curl -fsS "http://127.0.0.1:${INFERD_PORT:-8000}/health" || exit 1
ENTRYPOINT ["inferd", "serve"]
