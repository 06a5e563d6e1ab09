#!/bin/sh
# Installs the Restate server from npm into bench/peers/.installed/, which is not committed.
set -eu
cd "$(dirname "$0")"
version=1.7.12
# No install scripts: the only one counts downloads for the vendor.
npm install --prefix .installed --no-save --no-audit --no-fund --ignore-scripts \
    "@restatedev/restate-server@$version"
for binary in .installed/node_modules/@restatedev/restate-server-*/bin/restate-server; do
    "$binary" --version
done
