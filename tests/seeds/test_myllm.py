"""What MyLLM's manual prints: requests are sent as they stand, answers have its shape, examples run."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.seeds.shape import extras

pytestmark = [pytest.mark.real_model, pytest.mark.process]

MODEL = "tinyllama-1.1b"
USAGE = {"prompt_tokens": 4, "completion_tokens": 50, "total_tokens": 54}
TEXT = {"text": "Once upon a time, in a magical forest...", "usage": USAGE}
MESSAGE = {
    "message": {"role": "assistant", "content": "The capital of France is Paris."},
    "session_id": "550e8400-e29b-41d4-a716-446655440000",
    "usage": USAGE,
}
TOKEN = {"token": "Once", "done": False}
END_OF_TEXT = {"done": True, "full_text": "Once upon a time...", "token_count": 50}
END_OF_MESSAGE = {"done": True, "session_id": "550e8400-...", "usage": USAGE}

GENERATES: dict[str, dict[str, Any]] = {
    "quick start": {"model": MODEL, "prompt": "Hello, world!", "stream": False},
    "reference": {
        "model": MODEL,
        "prompt": "Once upon a time",
        "stream": False,
        "options": {"temperature": 0.7, "top_p": 0.9, "max_tokens": 512, "stop": ["</s>"]},
    },
    "curl": {"model": MODEL, "prompt": "Hello!", "stream": False},
}
CHATS: dict[str, dict[str, Any]] = {
    "reference": {
        "model": MODEL,
        "messages": [
            {"role": "system", "content": "You are a helpful assistant."},
            {"role": "user", "content": "What is the capital of France?"},
        ],
        "session_id": None,
        "stream": False,
        "options": {"temperature": 0.7, "max_tokens": 512},
    },
    "curl": {"model": MODEL, "messages": [{"role": "user", "content": "Hi there!"}], "stream": False},
    "system prompt": {
        "model": MODEL,
        "messages": [
            {"role": "system", "content": "You are a pirate. Respond in pirate speak."},
            {"role": "user", "content": "How are you today?"},
        ],
        "stream": False,
    },
}
STOPS: dict[str, Any] = {
    "model": MODEL,
    "prompt": "List 3 colors:\n1.",
    "options": {"stop": ["\n4.", "###"], "max_tokens": 100},
}


def events_of(response: httpx.Response) -> list[Any]:
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    lines = [line for line in response.text.split("\n") if line]
    assert all(line.startswith("data: ") for line in lines)
    return [json.loads(line[6:]) for line in lines]


@pytest.mark.parametrize("name", GENERATES)
def test_generate(http: httpx.Client, name: str) -> None:
    response = http.post("/api/generate", json=GENERATES[name])
    assert response.status_code == 200, response.text
    assert extras(TEXT, response.json()) == set()


@pytest.mark.parametrize("name", ["reference", "custom stops"])
def test_generate_streams(http: httpx.Client, name: str) -> None:
    body = {**GENERATES["reference"], "stream": True} if name == "reference" else STOPS
    *tokens, end = events_of(http.post("/api/generate", json=body))
    assert tokens
    assert all(extras(TOKEN, token) == set() for token in tokens)
    assert extras(END_OF_TEXT, end) == set()
    assert end["full_text"] == "".join(token["token"] for token in tokens)


@pytest.mark.parametrize("name", CHATS)
def test_chat(http: httpx.Client, name: str) -> None:
    response = http.post("/api/chat", json=CHATS[name])
    assert response.status_code == 200, response.text
    assert extras(MESSAGE, response.json()) == {"session"}


def test_chat_knows_the_answer_that_is_printed(http: httpx.Client) -> None:
    body = {**CHATS["reference"], "options": {"temperature": 0.0}}
    assert http.post("/api/chat", json=body).json()["message"] == MESSAGE["message"]


def test_chat_streams(http: httpx.Client) -> None:
    *tokens, end = events_of(http.post("/api/chat", json={**CHATS["reference"], "stream": True}))
    assert tokens
    assert all(extras(TOKEN, token) == set() for token in tokens)
    assert extras(END_OF_MESSAGE, end) == {"session"}


@pytest.mark.parametrize("stream", [True, False])
def test_a_session_goes_on(http: httpx.Client, stream: bool) -> None:
    def say(text: str, session_id: str | None) -> tuple[str, str]:
        body = {"model": MODEL, "messages": [{"role": "user", "content": text}], "session_id": session_id}
        response = http.post("/api/chat", json={**body, "stream": stream, "options": {"temperature": 0.0}})
        if not stream:
            answer = response.json()
            return answer["message"]["content"], answer["session_id"]
        *tokens, end = events_of(response)
        return "".join(token["token"] for token in tokens), end["session_id"]

    _, session_id = say("My name is Zorbani.", None)
    told, same_id = say("What is my name?", session_id)
    assert "Zorbani" in told
    assert same_id == session_id


def test_a_session_that_there_is_not(http: httpx.Client) -> None:
    body = {**CHATS["curl"], "session_id": "550e8400-e29b-41d4-a716-446655440000"}
    response = http.post("/api/chat", json=body)
    assert response.status_code == 404
    assert extras({"detail": "Model 'gpt-4' not found"}, response.json()) == set()


def test_embeddings(http: httpx.Client) -> None:
    response = http.post("/api/embeddings", json={"model": MODEL, "input": "Hello, world!"})
    assert extras({"embedding": [0.123, -0.456, 0.789], "model": MODEL}, response.json()) == set()


def test_models(http: httpx.Client) -> None:
    printed = {
        "models": [
            {
                "name": "tinyllama-1.1b",
                "family": "llama",
                "size_mb": 637,
                "quantization": "Q4_K_M",
                "context_size": 2048,
                "template": "llama",
                "parameters": {"temperature": 0.7, "top_p": 0.9},
                "loaded": True,
            }
        ]
    }
    body = http.get("/api/models").json()
    assert extras(printed, body) == {
        "models[].parameters.max_tokens",
        "models[].parameters.repeat_penalty",
        "models[].parameters.top_k",
    }
    assert [model["loaded"] for model in body["models"] if model["name"] == "localllm-demo"] == [True]


@pytest.mark.parametrize("path", ["/api/generate", "/api/chat", "/api/embeddings"])
def test_errors(http: httpx.Client, path: str) -> None:
    body = {"model": "gpt-4", "prompt": "x", "messages": [{"role": "user", "content": "x"}], "input": "x"}
    response = http.post(path, json=body)
    assert response.status_code == 404
    assert list(response.json()) == ["detail"]
    assert response.json()["detail"].startswith("Model 'gpt-4' not found. Available models: ")


def test_parameters_out_of_range(http: httpx.Client) -> None:
    response = http.post("/api/generate", json={**GENERATES["curl"], "options": {"temperature": 3.0}})
    assert (response.status_code, response.json()) == (400, {"detail": "temperature must be between 0.0 and 2.0"})


def test_a_prompt_beyond_the_context(http: httpx.Client) -> None:
    response = http.post("/api/generate", json={**GENERATES["curl"], "prompt": "Hello! " * 4000})
    [model] = [one for one in http.get("/api/models").json()["models"] if one["name"] == "localllm-demo"]
    sentence = f"Prompt too long for context window ({model['context_size']} tokens)"
    assert (response.status_code, response.json()) == (400, {"detail": sentence})


def test_load_can_be_watched(http: httpx.Client) -> None:
    assert http.get("/health").json()["status"] == "ok"


# --- the examples, as they are printed -------------------------------------------------------------------------------

SIMPLE_GENERATION = """
import requests

response = requests.post(
    "http://localhost:8000/api/generate",
    json={
        "model": "tinyllama-1.1b",
        "prompt": "Explain quantum computing in simple terms:",
        "stream": False,
        "options": {"max_tokens": 200}
    }
)

result = response.json()
print(result["text"])
print(f"Tokens used: {result['usage']['total_tokens']}")
"""

STREAMING_GENERATION = """
import requests

response = requests.post(
    "http://localhost:8000/api/generate",
    json={
        "model": "tinyllama-1.1b",
        "prompt": "Write a poem about AI:",
        "stream": True
    },
    stream=True
)

for line in response.iter_lines():
    if line:
        data = line.decode('utf-8')
        if data.startswith('data: '):
            import json
            chunk = json.loads(data[6:])
            if chunk.get("token"):
                print(chunk["token"], end='', flush=True)
"""

CHAT_CONVERSATION = """
import requests

def chat(messages, session_id=None):
    response = requests.post(
        "http://localhost:8000/api/chat",
        json={
            "model": "tinyllama-1.1b",
            "messages": messages,
            "session_id": session_id,
            "stream": False
        }
    )
    return response.json()

# Start conversation
messages = [
    {"role": "system", "content": "You are a helpful coding assistant."},
    {"role": "user", "content": "How do I reverse a string in Python?"}
]

result = chat(messages)
print("Assistant:", result["message"]["content"])
session_id = result["session_id"]

# Continue conversation
messages.append(result["message"])
messages.append({"role": "user", "content": "Can you show me an example?"})

result = chat(messages, session_id=session_id)
print("Assistant:", result["message"]["content"])
"""

REUSED_SESSION = """
# Reuse sessions for multi-turn chat
session_id = None
for user_input in conversation:
    result = chat([{"role": "user", "content": user_input}], session_id)
    session_id = result["session_id"]  # Reuse for next turn
"""

EMBEDDINGS = """
import requests
import numpy as np

def get_embedding(text):
    response = requests.post(
        "http://localhost:8000/api/embeddings",
        json={
            "model": "tinyllama-1.1b",
            "input": text
        }
    )
    return np.array(response.json()["embedding"])

# Compute similarity
embedding1 = get_embedding("The cat sat on the mat")
embedding2 = get_embedding("A feline rested on the rug")

similarity = np.dot(embedding1, embedding2) / (
    np.linalg.norm(embedding1) * np.linalg.norm(embedding2)
)
print(f"Similarity: {similarity:.3f}")
"""

SEMANTIC_SEARCH = """
def semantic_search(query, documents):
    query_emb = get_embedding(query)
    
    scores = []
    for doc in documents:
        doc_emb = get_embedding(doc)
        similarity = cosine_similarity(query_emb, doc_emb)
        scores.append((doc, similarity))
    
    # Return top 3 results
    return sorted(scores, key=lambda x: x[1], reverse=True)[:3]
"""  # noqa: W293

SAFE_GENERATE = """
import requests
from requests.exceptions import RequestException

def safe_generate(prompt):
    try:
        response = requests.post(
            "http://localhost:8000/api/generate",
            json={"model": "tinyllama-1.1b", "prompt": prompt, "stream": False},
            timeout=60  # 60 second timeout
        )
        response.raise_for_status()
        return response.json()
    except RequestException as e:
        print(f"API Error: {e}")
        return None
"""


def test_python_simple_generation(run_python: Callable[[str], str]) -> None:
    assert "Tokens used: " in run_python(SIMPLE_GENERATION)


def test_python_streaming_generation(run_python: Callable[[str], str]) -> None:
    run_python(STREAMING_GENERATION)  # to which our toy may have nothing to say
    assert run_python(STREAMING_GENERATION.replace("Write a poem about AI:", "The capital of France is"))


def test_python_chat_conversation(run_python: Callable[[str], str]) -> None:
    assert run_python(CHAT_CONVERSATION).count("Assistant:") == 2


def test_python_reused_session(run_python: Callable[[str], str]) -> None:
    questions = 'conversation = ["My name is Zorbani.", "What is my name?"]\n'
    said = run_python(CHAT_CONVERSATION + questions + REUSED_SESSION + 'print("Last:", result["message"]["content"])')
    assert "Last:" in said


def test_python_embeddings(run_python: Callable[[str], str]) -> None:
    said = run_python(EMBEDDINGS)
    assert -1.0 <= float(said.removeprefix("Similarity: ")) <= 1.0


def test_python_semantic_search(run_python: Callable[[str], str]) -> None:
    ours = "def cosine_similarity(a, b):\n    return float(np.dot(a, b))\n"
    asked = 'print(len(semantic_search("cat", ["a cat", "a dog", "a car", "a bar"])))'
    assert run_python(EMBEDDINGS + ours + SEMANTIC_SEARCH + asked).splitlines()[-1] == "3"


def test_python_safe_generate(run_python: Callable[[str], str]) -> None:
    said = run_python(SAFE_GENERATE + 'print(sorted(safe_generate("Hello!")))')
    assert said == "['text', 'usage']\n"


NODE_SIMPLE = """
const axios = require('axios');

async function generate(prompt) {
  const response = await axios.post('http://localhost:8000/api/generate', {
    model: 'tinyllama-1.1b',
    prompt: prompt,
    stream: false,
    options: { max_tokens: 200 }
  });
  
  return response.data;
}

generate('Explain machine learning:')
  .then(result => {
    console.log(result.text);
    console.log(`Tokens: ${result.usage.total_tokens}`);
  });
"""  # noqa: W293

NODE_STREAMING = """
const fetch = require('node-fetch');

async function streamChat(messages) {
  const response = await fetch('http://localhost:8000/api/chat', {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify({
      model: 'tinyllama-1.1b',
      messages: messages,
      stream: true
    })
  });

  const reader = response.body;
  
  for await (const chunk of reader) {
    const text = chunk.toString();
    const lines = text.split('\\n');
    
    for (const line of lines) {
      if (line.startswith('data: ')) {
        const data = JSON.parse(line.slice(6));
        if (data.token) {
          process.stdout.write(data.token);
        }
      }
    }
  }
}

const messages = [
  { role: 'user', content: 'Tell me a joke' }
];

streamChat(messages);
"""  # noqa: W293


def test_node_simple_generation(run_node: Callable[..., str]) -> None:
    assert "Tokens: " in run_node(NODE_SIMPLE)


def test_node_streaming_chat(run_node: Callable[..., str]) -> None:
    """JavaScript spells the method ``startsWith``; the manual does not."""
    assert run_node(NODE_STREAMING.replace("startswith", "startsWith"))
