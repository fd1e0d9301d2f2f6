"""Asking a chat endpoint: a real server on the loopback, the Hub's real client."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from chat_server import Chat, chat_answer, chat_server
from istar.errors import RewriteError, UsageError
from istar.models.chat import ChatEndpoint, is_hub_address

HUB_TOKEN = "hf_notARealToken"


@pytest.fixture
def chat(monkeypatch: pytest.MonkeyPatch) -> Iterator[Chat]:
    monkeypatch.setenv("HF_TOKEN", HUB_TOKEN)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with chat_server() as chat:
        chat.says("A red fox.")
        yield chat


def test_the_endpoint_is_asked_for_a_rewritten_prompt(chat: Chat) -> None:
    endpoint = ChatEndpoint(url=chat.url, model="qwen", token="secret")
    assert endpoint.answer("Describe.", "a fox") == "A red fox."
    (asked,) = chat.asked
    assert asked["path"] == "/v1/chat/completions"
    assert asked["authorization"] == "Bearer secret"
    assert asked["model"] == "qwen"
    assert asked["messages"] == [
        {"role": "system", "content": "Describe."},
        {"role": "user", "content": "a fox"},
    ]
    assert "secret" not in repr(endpoint)


def test_the_hubs_token_stays_with_the_hub(chat: Chat) -> None:
    for url in (chat.url, chat.url.removesuffix("/v1")):
        ChatEndpoint(url=url).answer("Describe.", "a fox")
    assert [asked["path"] for asked in chat.asked] == ["/v1/chat/completions"] * 2
    assert HUB_TOKEN not in json.dumps(chat.asked)
    assert is_hub_address("https://router.huggingface.co/v1")
    for other in (
        "http://router.huggingface.co/v1",
        "https://huggingface.co.example.org/v1",
        "https://nothuggingface.co/v1",
        "https://example.org/huggingface.co/v1",
    ):
        assert not is_hub_address(other)


def test_the_hub_itself_gets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = []

    class Client:
        def __init__(self, *, base_url: str, api_key: str, timeout: float) -> None:
            tokens.append(api_key)
            raise ValueError(base_url)

    monkeypatch.setenv("HF_TOKEN", HUB_TOKEN)
    monkeypatch.setattr("huggingface_hub.InferenceClient", Client)
    for token in (None, "own"):
        endpoint = ChatEndpoint(url="https://router.huggingface.co/v1", token=token)
        with pytest.raises(RewriteError):
            endpoint.answer("Describe.", "a fox")
    assert tokens == [HUB_TOKEN, "own"]


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (401, b'{"error": {"message": "bad key"}}', "refuses the token, or wants one (401): bad"),
        (404, b'{"error": "no model qwen"}', "has no such address or model (404): no model qwen"),
        (429, b"", "asks for a pause (429)"),
        (500, b"<html>oops</html>", "gives no answer (500)"),
        (503, b'{"error": {"message": "\\u001b[31m\\nbusy"}}', "gives no answer (503)"),
        (200, b"hello", "does not answer as a chat endpoint does"),
        (200, b"\xff\xfe", "does not answer as a chat endpoint does"),
        (200, b"[]", "does not answer as a chat endpoint does"),
        (200, b'{"choices": []}', "does not answer as a chat endpoint does"),
        (200, b'{"choices": [{"message": null}]}', "does not answer as a chat endpoint does"),
        (200, b"[" * 100_000, "does not answer as a chat endpoint does"),
        (200, json.dumps(chat_answer([1])).encode(), "does not answer as a chat endpoint does"),
    ],
)
def test_what_goes_wrong_is_one_line(chat: Chat, status: int, body: bytes, reason: str) -> None:
    chat.fails(status, body)
    with pytest.raises(RewriteError) as raised:
        ChatEndpoint(url=chat.url, token="secret").answer("Describe.", "a fox")
    said = str(raised.value)
    assert said.startswith(f"127.0.0.1:{chat.url.split(':')[2].split('/')[0]} ")
    assert reason in said
    assert "secret" not in said
    assert len(said.splitlines()) == 1


def test_an_answer_may_have_nothing_in_it(chat: Chat) -> None:
    for content in (None, ""):
        chat.says(content)
        assert ChatEndpoint(url=chat.url).answer("Describe.", "a fox") == ""


def test_an_endpoint_that_is_slow_or_gone_or_not_to_be_asked(
    chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat.body = None
    with pytest.raises(RewriteError, match="does not answer within"):
        ChatEndpoint(url=chat.url, timeout=0.2).answer("Describe.", "a fox")
    with pytest.raises(RewriteError, match="cannot be reached") as down:
        ChatEndpoint(url="http://127.0.0.1:1/v1").answer("Describe.", "a fox")
    assert down.value.remedies == ("rewrite_url",)
    with pytest.raises(RewriteError, match="token holds characters that no token has"):
        ChatEndpoint(url=chat.url, token="a\nb").answer("Describe.", "a fox")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(RewriteError, match="HF_HUB_OFFLINE forbids requests"):
        ChatEndpoint(url=chat.url).answer("Describe.", "a fox")


@pytest.mark.parametrize(
    "url",
    [
        "https://me:secret@example.org/v1",
        "https://secret@example.org",
        "localhost:8080/secret",
        "ftp://example.org/secret",
        "http://[secret/v1",
        "http://example.org:secret/v1",
        "",
    ],
)
def test_what_is_no_address_is_not_repeated(url: str) -> None:
    with pytest.raises(UsageError, match="address") as raised:
        ChatEndpoint(url=url)
    assert "secret" not in str(raised.value)


def test_a_time_to_wait_is_finite() -> None:
    for timeout in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="the time to wait for the rewriter"):
            ChatEndpoint(url="http://localhost", timeout=timeout)
