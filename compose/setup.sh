#!/bin/sh
# What the containers share, made before they start: Alertmanager's configuration out of settings.yaml and a
# token by which it writes to the service; Prometheus' configuration and a token by which it scrapes the
# service. Tokens that are there are kept. Only the group of the image reads all this, which Prometheus and
# Alertmanager join.
set -eu
umask 027

alertmanager=/etc/trainvitals/alertmanager
prometheus=/etc/trainvitals/prometheus

for value in "$CLUSTER" "$HOST_NAME"; do
    case $value in
        *[!A-Za-z0-9._-]*)
            echo "CLUSTER and HOST_NAME are made of letters, digits, points, - and _ alone, and not: $value" >&2
            exit 1
            ;;
    esac
done
sed -e "s/\${CLUSTER}/$CLUSTER/" -e "s/\${HOST_NAME}/$HOST_NAME/" /etc/trainvitals/prometheus.yml \
    >"$prometheus/prometheus.yml.new"
mv "$prometheus/prometheus.yml.new" "$prometheus/prometheus.yml"

trainvitals alerts config /etc/trainvitals/settings.yaml --output "$alertmanager"

if ! [ -s "$alertmanager/service-token" ] || ! trainvitals token list | grep -q '^ *alertmanager .* valid '; then
    # One whose file is gone cannot be shown again.
    trainvitals token revoke alertmanager 2>/dev/null || true
    trainvitals token create alertmanager --role operator >"$alertmanager/service-token.new"
    mv "$alertmanager/service-token.new" "$alertmanager/service-token"
fi

if ! [ -s "$prometheus/scrape-token" ]; then
    python3 -c 'import secrets; print(secrets.token_urlsafe(32))' >"$prometheus/scrape-token.new"
    mv "$prometheus/scrape-token.new" "$prometheus/scrape-token"
fi
