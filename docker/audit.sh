#!/usr/bin/env bash
# Asks a database of vulnerabilities for the pinned packages of the image and of the tests, with pip-audit, and prints
# what it knows as a Markdown table. Needs a network; no part of the tests.
#
#   audit.sh                   PyPI's advisories; SERVICE=osv asks osv.dev
#
# Exit status 1: a package has a known vulnerability, or one could not be looked up, or the database did not answer.
set -euo pipefail
cd "$(dirname "$0")/.."
environment=$(mktemp -d)
trap 'rm -rf "$environment"' EXIT
python3 -m venv "$environment"
"$environment/bin/pip" install --quiet --disable-pip-version-check 'pip-audit>=2.9' >&2
# --strict: a package that the database does not answer for is no package without vulnerabilities.
# The pins are complete, so nothing needs to be resolved.
"$environment/bin/pip-audit" --strict --disable-pip --no-deps --progress-spinner off --format markdown \
    --vulnerability-service "${SERVICE:-pypi}" -r requirements.txt -r tests/requirements.txt
