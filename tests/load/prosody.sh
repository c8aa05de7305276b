#!/bin/bash
# Runs `load run` against Debian's Prosody, for figures beside Usher's: plain TCP on loopback,
# accounts with SCRAM-SHA-256 keys, everything in a temporary directory that is removed afterwards.
#
#   apt-get install prosody
#   cargo build --release -p load
#   tests/load/prosody.sh [options of `load run`, such as --sessions 5000 --json]
#
# ACCOUNTS (10000) and PORT (15622) are taken from the environment.
set -euo pipefail

accounts=${ACCOUNTS:-10000}
port=${PORT:-15622}
password=load-password
root=$(cd "$(dirname "$0")/../.." && pwd)
load=$root/target/release/load

[ -x "$load" ] || { echo "no $load; hint: cargo build --release -p load" >&2; exit 1; }
command -v prosody >/dev/null || { echo "no prosody; hint: apt-get install prosody" >&2; exit 1; }
if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
    echo "port $port is taken; hint: PORT=15623 $0" >&2
    exit 1
fi

directory=$(mktemp -d)
server=
finish() {
    if [ -n "$server" ]; then
        kill -TERM "$server" 2>/dev/null || true
        wait "$server" 2>/dev/null || true
    fi
    rm -rf "$directory"
}
trap finish EXIT

cat >"$directory/prosody.cfg.lua" <<CONFIG
run_as_root = true
data_path = "$directory/data"
pidfile = "$directory/prosody.pid"
log = { warn = "$directory/log" }
interfaces = { "127.0.0.1" }
c2s_ports = { $port }
c2s_require_encryption = false
allow_unencrypted_plain_auth = true
modules_enabled = { "roster", "saslauth", "disco", "ping", "version" }
modules_disabled = { "s2s" }
authentication = "internal_hashed"
password_hash = "SHA-256"
default_iteration_count = 4096
storage = "internal"
VirtualHost "localhost"
CONFIG

# One account is registered, the others are copies of it: they share its salt and password.
mkdir -p "$directory/data"
prosodyctl --root --config "$directory/prosody.cfg.lua" register u0 localhost "$password" >/dev/null
stored=$directory/data/localhost/accounts
for ((n = 1; n < accounts; n++)); do
    cp "$stored/u0.dat" "$stored/u$n.dat"
done

ulimit -n "$(ulimit -Hn)"
prosody -F --config "$directory/prosody.cfg.lua" >"$directory/output" 2>&1 &
server=$!
for ((n = 0; n < 100; n++)); do
    (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null && break
    kill -0 "$server" 2>/dev/null || { cat "$directory/output" "$directory/log" >&2; exit 1; }
    sleep 0.1
done

"$load" run --against "127.0.0.1:$port" --pid "$server" --password "$password" "$@"
