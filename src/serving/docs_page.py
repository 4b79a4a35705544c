"""The OpenAPI document as a page that needs no script and nothing from elsewhere."""

from __future__ import annotations

import json
from html import escape
from typing import Any

HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title><link rel="stylesheet" href="/page/style.css"></head>
<body><main><h1>{title}</h1>
<p>This is <a href="/openapi.json">openapi.json</a>, version {version}, for people.</p>
"""


def docs_page(document: dict[str, Any]) -> str:
    """HTML with each path's summary, body and answers, then the schemas."""
    info = document["info"]
    parts = [HEAD.format(title=escape(info["title"]), version=escape(info["version"]))]
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            parts.append(f"<section><h2>{method.upper()} {escape(path)}</h2><p>{escape(operation['summary'])}</p>")
            if "requestBody" in operation:
                parts.append(f"<p>Body: {_content(operation['requestBody'])}</p>")
            rows = [
                f"<tr><td>{status}</td><td>{escape(answer['description'])}</td><td>{_content(answer)}</td></tr>"
                for status, answer in operation["responses"].items()
            ]
            head = "<tr><th>status</th><th>when</th><th>content</th></tr>"
            parts.append(f"<table>{head}{''.join(rows)}</table></section>")
    for name, schema in document["components"]["schemas"].items():
        text = escape(json.dumps(schema, indent=1, ensure_ascii=False))
        parts.append(f'<section><h2 id="{escape(name)}">{escape(name)}</h2><pre>{text}</pre></section>')
    return "".join([*parts, "</main></body></html>\n"])


def _content(part: dict[str, Any]) -> str:
    """Kinds of a body or an answer, with links to their schemas."""
    found = []
    for kind, content in part.get("content", {}).items():
        schema = content.get("schema", {})
        names = [one["$ref"].rpartition("/")[2] for one in schema.get("anyOf", [schema]) if "$ref" in one]
        links = " or ".join(f'<a href="#{escape(name)}">{escape(name)}</a>' for name in names)
        found.append(f"{escape(kind)} {links}".strip())
    return "; ".join(found)
