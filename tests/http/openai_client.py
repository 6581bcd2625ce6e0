#!/usr/bin/env python3
"""The official openai client against a running server. Exits with 77 (skipped) if the module is not installed.

usage: openai_client.py BASE_URL [API_KEY]      for example http://127.0.0.1:8000/v1
"""
import sys

try:
    import openai
except ImportError:
    print("skipped: the openai module is not installed")
    sys.exit(77)

checks = 0


def check(condition, what):
    global checks
    checks += 1
    if not condition:
        sys.exit(f"failed: {what}")


def refused(kind, status, param, call):
    try:
        call()
    except kind as e:
        check(e.status_code == status, f"status {e.status_code}, not {status}")
        check(e.body and e.body.get("message"), "an error without a message")
        if param:
            check(e.body.get("param") == param, f"param {e.body.get('param')}, not {param}")
        return
    check(False, f"{param or status} was accepted")


def completions(client, model):
    ask = dict(model=model, prompt="Once upon a time", max_tokens=12, temperature=0)
    whole = client.completions.create(**ask, logprobs=3)
    choice = whole.choices[0]
    check(whole.usage.completion_tokens == len(choice.logprobs.tokens), "a logprob for each token")
    check("".join(choice.logprobs.tokens) == choice.text, "tokens join to the text")
    check(choice.logprobs.text_offset[0] == 0 and len(choice.logprobs.top_logprobs[0]) >= 3, "logprob shapes")
    check(whole.usage.prompt_tokens_details.cached_tokens >= 0, "cached_tokens")
    chunks = list(client.completions.create(**ask, stream=True, stream_options={"include_usage": True}))
    check("".join(c.choices[0].text for c in chunks if c.choices) == choice.text, "stream and whole answer agree")
    check([c.choices[0].finish_reason for c in chunks if c.choices][-1] == choice.finish_reason, "finish reason")
    check(chunks[-1].usage == whole.usage or chunks[-1].usage.completion_tokens == whole.usage.completion_tokens, "usage")
    many = client.completions.create(model=model, prompt=["a", "b"], n=2, max_tokens=4, seed=3)
    check([c.index for c in many.choices] == [0, 1, 2, 3], "order of choices")
    again = client.completions.create(model=model, prompt=["a", "b"], n=2, max_tokens=4, seed=3)
    check([c.text for c in many.choices] == [c.text for c in again.choices], "a seed repeats the answer")
    echo = client.completions.create(model=model, prompt="Hello there", max_tokens=0, echo=True, logprobs=1)
    check(echo.choices[0].text == "Hello there" and echo.choices[0].logprobs.token_logprobs[0] is None, "echo")


def chat(client, model):
    messages = [{"role": "user", "content": "Say something."}]
    whole = client.chat.completions.create(model=model, messages=messages, max_tokens=8, temperature=0, logprobs=True, top_logprobs=2)
    choice = whole.choices[0]
    check(choice.message.role == "assistant" and choice.message.content, "a message")
    check(len(choice.logprobs.content) == whole.usage.completion_tokens, "a logprob for each token")
    check(len(choice.logprobs.content[0].top_logprobs) == 2, "top_logprobs")
    with client.chat.completions.create(model=model, messages=messages, max_tokens=8, temperature=0, stream=True) as stream:
        deltas = [c.choices[0].delta for c in stream if c.choices]
    check(deltas[0].role == "assistant", "the role comes first")
    check("".join(d.content or "" for d in deltas) == choice.message.content, "stream and whole answer agree")
    parts = [{"role": "user", "content": [{"type": "text", "text": "Say something."}]}]
    same = client.chat.completions.create(model=model, messages=parts, max_tokens=8, temperature=0)
    check(same.choices[0].message.content == choice.message.content, "text parts")


def refusals(client, model):
    bad = openai.BadRequestError
    refused(openai.NotFoundError, 404, "model", lambda: client.completions.create(model="no-such-model", prompt="x"))
    refused(bad, 400, "temperature", lambda: client.completions.create(model=model, prompt="x", temperature=9))
    refused(bad, 400, "tools", lambda: client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": "x"}], tools=[{"type": "function", "function": {"name": "f"}}]))
    refused(bad, 400, "response_format", lambda: client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": "x"}], response_format={"type": "json_object"}))
    stranger = openai.OpenAI(base_url=client.base_url, api_key="not the key", max_retries=0)
    if client.api_key != "none":
        refused(openai.AuthenticationError, 401, None, lambda: stranger.models.list())


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    client = openai.OpenAI(base_url=sys.argv[1], api_key=sys.argv[2] if len(sys.argv) > 2 else "none", max_retries=0, timeout=60)
    model = client.models.list().data[0].id
    check(client.models.retrieve(model).id == model, "the model by its id")
    completions(client, model)
    try:
        chat(client, model)
    except openai.BadRequestError as e:
        if "--chat-template" not in str(e):
            raise
        print("chat skipped: the model has no chat template")
    refusals(client, model)
    print(f"ok: {checks} checks")


main()
