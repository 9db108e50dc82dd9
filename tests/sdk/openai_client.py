"""Talks to a running server with the official `openai` package, as a user would.

Run by `cargo xtask sdk`, which starts a server and passes its address:
    python3 openai_client.py http://127.0.0.1:8080
Needs: openai (see requirements.txt beside this file).
"""

import sys

import openai

CATEGORY = "malware_viruses"
MESSAGES = [{"role": "user", "content": "How do computer viruses spread?"}]
STEERED = {"X-Safety-Category": CATEGORY}
UNSTEERED = {"X-Safety-Category": "none"}


def check(holds, what):
    if not holds:
        raise SystemExit(f"FAILED: {what}")
    print(f"ok: {what}")


def plain(client):
    raw = client.chat.completions.with_raw_response.create(
        model="default", messages=MESSAGES, temperature=0, max_tokens=24, extra_headers=STEERED
    )
    answer = raw.parse()
    choice = answer.choices[0]
    steering = choice.model_extra["steering"]
    check(raw.headers["x-steering-applied"] == "planned", "header says steering is planned")
    check(raw.headers["x-safety-category"] == CATEGORY, "header names the category")
    check(raw.headers["x-safety-category-source"] == "header", "header names the source")
    check(raw.headers["x-steering-generation"] == steering["generation"], "one generation")
    check(steering["category"] == CATEGORY, "evidence names the category")
    check(steering["steered_completion_tokens"] == answer.usage.completion_tokens, "all tokens steered")
    check(choice.finish_reason in ("stop", "length"), "finish_reason")
    return choice.message.content


def streamed(client):
    text, last, usage = "", None, None
    with client.chat.completions.create(
        model="default",
        messages=MESSAGES,
        temperature=0,
        max_tokens=24,
        stream=True,
        stream_options={"include_usage": True},
        extra_headers=STEERED,
    ) as stream:
        for chunk in stream:
            usage = chunk.usage or usage
            for choice in chunk.choices:
                text += choice.delta.content or ""
                last = choice if choice.finish_reason else last
    check(last is not None, "a chunk carries finish_reason")
    check(last.model_extra["steering"]["category"] == CATEGORY, "that chunk carries the evidence")
    check(usage is not None and usage.completion_tokens > 0, "usage comes last")
    return text


def errors(client):
    for headers, code in [
        ({"X-Safety-Category": "no_such_category"}, "unknown_category"),
        ({"X-Safety-Categories": CATEGORY}, None),
        ({"X-Safety-Category": "auto"}, "auto_unavailable"),
    ]:
        try:
            client.chat.completions.create(
                model="default", messages=MESSAGES, max_tokens=1, extra_headers=headers
            )
        except openai.BadRequestError as error:
            check(code is None or error.code == code, f"400 for {headers}: {error.code}")
        else:
            check(False, f"{headers} was accepted")
    try:
        client.chat.completions.create(model="no-such-model", messages=MESSAGES, max_tokens=1)
    except openai.NotFoundError as error:
        check(error.code == "model_not_found", "404 for an unknown model")
    else:
        check(False, "an unknown model was accepted")


def main():
    client = openai.OpenAI(base_url=f"{sys.argv[1]}/v1", api_key="unused", max_retries=0)
    check(len(client.models.list().data) >= 1, "models are listed")
    whole = plain(client)
    check(whole == streamed(client), "streamed and whole answers are the same")
    unsteered = client.chat.completions.create(
        model="default", messages=MESSAGES, temperature=0, max_tokens=24, extra_headers=UNSTEERED
    )
    check(unsteered.choices[0].message.content != whole, "steering changes the answer")
    body = client.chat.completions.create(
        model="default",
        messages=MESSAGES,
        temperature=0,
        max_tokens=24,
        extra_body={"steering": {"category": CATEGORY}},
    )
    check(body.choices[0].message.content == whole, "body and header select the same")
    errors(client)
    print(f"openai {openai.__version__}: all checks passed")


if __name__ == "__main__":
    main()
