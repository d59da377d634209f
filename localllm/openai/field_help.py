"""What the fields of requests mean, in one sentence each, for the description of the service."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

_OWN_WORDS: Final = "What the answer must match"

FIELD_HELP: Final[Mapping[str, str]] = {
    # whom it is for
    "model": "A model's id or alias; absent: the default one.",
    "autoload": "false: refuse (409) rather than load a model that isn't loaded.",
    "ttl": "How long the model stays loaded after this request: seconds, or text such as 5m; below 0: for ever.",
    "keep_alive": "Ollama's name of `ttl`.",
    "lora": "The adapters that count, and how strongly; those that are not listed do not count.",
    # what is said
    "messages": "The conversation, oldest message first.",
    "session_id": "The session that the messages go on with: only what is new is sent then. `new` begins one.",
    "prompt": "A text, several, token ids, or several lists of those.",
    "suffix": "What follows the gap that is to be filled.",
    "echo": "Put the prompt before each answer.",
    "continue_final_message": "Go on with the last message, of role assistant, instead of beginning a new one.",
    "add_generation_prompt": "false goes with `continue_final_message` only.",
    "chat_template_kwargs": "Variables for the model's chat template.",
    # how the answer is sent
    "stream": "Send the answer as server-sent events while it is written.",
    "stream_options": "For streams only.",
    "n": "How many answers to write.",
    "best_of": "How many answers to draw, of which the best `n` are returned.",
    "logprobs": "Log-probabilities: true or false in chats; in completions how many alternatives to each token.",
    "top_logprobs": "How many alternatives to each token; needs `logprobs`.",
    "prompt_logprobs": "How many alternatives to each token of the prompt to tell.",
    "timings_per_token": "Tell in each chunk of a stream how far and how fast the answer is.",
    "cache_prompt": "Keep the evaluated prompt for requests that begin alike.",
    # how long it is
    "max_tokens": "Most tokens to write; -1: until the model stops.",
    "max_completion_tokens": "Most tokens to write, thoughts included; -1: until the model stops.",
    "min_tokens": "Fewest tokens to write.",
    "stop": "Texts that end the answer; they are no part of it.",
    "stop_token_ids": "Tokens that end the answer.",
    "ignore_eos": "Write on where the model would end.",
    "include_stop_str_in_output": "Leave the text that ended the answer in it.",
    # how tokens are drawn
    "temperature": "0 takes the most likely token always; absent: the model's own.",
    "top_k": "Draw from so many of the most likely tokens; 0 or -1: from all.",
    "top_p": "Draw from the most likely tokens that have this probability together.",
    "min_p": "Draw from tokens that have at least this fraction of the most likely one's probability.",
    "typical_p": "Draw from the most typical tokens that have this probability together; 1: off.",
    "top_n_sigma": "Draw from tokens within so many standard deviations of the highest logit; -1: off.",
    "xtc_probability": "How often to leave out the most likely tokens; 0: never.",
    "xtc_threshold": "From which probability on they are left out, but for the least likely of them.",
    "mirostat": "1 or 2: hold the surprise of tokens at `mirostat_tau`; 0: off.",
    "mirostat_tau": "The surprise to hold.",
    "mirostat_eta": "How fast it is corrected.",
    "seed": "The same seed draws the same tokens; absent or -1: a new one.",
    # what is made likelier, or less so
    "presence_penalty": "Taken from the logits of tokens that are there already.",
    "frequency_penalty": "The same, for each time that they are there.",
    "repeat_penalty": "Divides the logits of the last tokens; 1: off.",
    "repeat_last_n": "How many of the last tokens penalties count; -1: all.",
    "dry_multiplier": "How strongly the continuation of a repetition is penalised; 0: off.",
    "dry_base": "How much more with each token that repeats.",
    "dry_allowed_length": "Repetitions up to so many tokens go unpenalised.",
    "dry_penalty_last_n": "How far back repetitions are looked for, in tokens; -1: everywhere.",
    "dry_sequence_breakers": "Texts that no repetition reaches across.",
    "logit_bias": "Added to the logits of tokens, by id or by text, as an object or in pairs; false bans.",
    "allowed_token_ids": "The only tokens that may be drawn.",
    "bad_words": "Texts that must not be written.",
    # what it must match: at most one of them
    "response_format": f"{_OWN_WORDS}: any text, any JSON object, or a JSON schema.",
    "structured_outputs": f"{_OWN_WORDS}, in vLLM's words: exactly one of these.",
    "guided_json": f"{_OWN_WORDS}: a JSON schema, or its text.",
    "guided_regex": f"{_OWN_WORDS}: a regular expression.",
    "guided_choice": f"{_OWN_WORDS}: one of these texts.",
    "guided_grammar": f"{_OWN_WORDS}: a grammar, in Lark's form or GBNF.",
    "json_schema": f"{_OWN_WORDS}: a JSON schema, as llama-server has it.",
    "grammar": f"{_OWN_WORDS}: a grammar (GBNF); empty: none.",
    # functions
    "tools": "The functions that the model may call.",
    "tool_choice": "Whether it may, must or must not call one, and which.",
    "parallel_tool_calls": "Whether it may call several at a time.",
    "functions": "The older form of `tools`.",
    "function_call": "The older form of `tool_choice`.",
    # thoughts
    "reasoning_effort": "How hard to think, as far as the model's template knows: none, low, medium, high, ...",
    "enable_thinking": "Whether to think before answering.",
    "thinking_budget": "Most tokens to think; -1: as many as it likes.",
    "reasoning": "The same wishes, as OpenRouter words them.",
    "thinking": "The same wishes, as Anthropic words them.",
    "include_reasoning": "Whether the answer shows what the model thought.",
    # embeddings and rerank
    "input": "A text, several, token ids, or several lists of those.",
    "encoding_format": "How vectors are written: as numbers, or as base64 of little-endian float32.",
    "dimensions": "Length to which vectors are cut.",
    "truncate": "Cut the end of texts that are longer than the model's context, rather than refuse them.",
    "normalize": "Scale vectors to length 1.",
    "query": "What the documents are ranked for.",
    "documents": "Texts, or objects with a text in them.",
    "texts": "The documents, as text-embeddings-inference names them.",
    "top_n": "How many of the best to return; absent: all.",
    "raw_scores": "Scores as the model gives them, without a sigmoid.",
    "return_documents": "Whether results hold their documents.",
    "return_text": "Whether results hold their texts.",
    "rank_fields": "The fields of an object that make up its text.",
    "max_tokens_per_doc": "Cut each document to so many tokens.",
}
"""By field; fields of the same name in several requests mean the same."""

NESTED_HELP: Final[Mapping[str, str]] = {
    "Message.role": "Who says it.",
    "Message.content": "A text, or parts of type text.",
    "Message.name": "Who of several says it; of a result, the function.",
    "Message.tool_calls": "What the assistant called.",
    "Message.function_call": "The older form of `tool_calls`.",
    "Message.tool_call_id": "Which call this is the result of.",
    "Message.reasoning_content": "What the assistant thought before.",
    "Message.reasoning": "Another name of `reasoning_content`.",
    "Message.thinking": "Another name of `reasoning_content`.",
    "StreamOptions.include_usage": "End the stream with the token counts.",
    "ReasoningOptions.effort": "How hard to think; none: not at all.",
    "ReasoningOptions.max_tokens": "Most tokens to think.",
    "ReasoningOptions.enabled": "Whether to think.",
    "ReasoningOptions.exclude": "Whether to leave thoughts out of the answer.",
    "ThinkingOptions.type": "Whether to think; adaptive and auto leave it to the model.",
    "ThinkingOptions.budget_tokens": "Most tokens to think.",
}
