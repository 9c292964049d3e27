#!/bin/sh
# What the containers share, made before they start: Alertmanager's configuration out of settings.yaml, a token
# by which it writes to the service, and one by which Prometheus scrapes it. Tokens that are there are kept.
# Only the group of the image reads them, which Prometheus and Alertmanager join.
set -eu
umask 027

alertmanager=/etc/trainvitals/alertmanager
prometheus=/etc/trainvitals/prometheus

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
