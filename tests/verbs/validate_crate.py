"""Validates an RO-Crate by roc-validator without a network: to be run by the Python that has it.

The only thing that is served is the JSON-LD context of RO-Crate, from a file. Usage: validate_crate.py CRATE CONTEXT.
It prints one line for each requirement that is not met.
"""

from __future__ import annotations

import sys
from pathlib import Path

import requests
from rocrate_validator import models, services
from rocrate_validator.utils import http

crate, context = sys.argv[1:]


def answer(self, url, **options):
    response = requests.Response()
    response.url, response.status_code = url, 404
    if url == "https://w3id.org/ro/crate/1.1/context":
        response.status_code, response._content = 200, Path(context).read_bytes()
        response.headers["Content-Type"] = "application/ld+json"
    return response


for name in ("get", "head", "fetch_fresh"):
    setattr(http.HttpRequester, name, answer)
for profile in ("process-run-crate-0.5", "workflow-run-crate-0.5"):
    settings = models.ValidationSettings(
        rocrate_uri=crate, profile_identifier=profile, requirement_severity=models.Severity.REQUIRED
    )
    result = services.validate(settings)
    for issue in result.get_issues():
        print(profile, issue.check.identifier, issue.message)
    print(profile, "passed" if result.passed() else "failed")
