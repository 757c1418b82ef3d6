// The Node clients in the mending matrix: each case asked through openai-node and Vercel's AI SDK, a JSON line for each.

import { readFileSync } from "node:fs";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, jsonSchema, streamText, tool } from "ai";
import OpenAI from "openai";

const { ways, key, cases } = JSON.parse(readFileSync(0, "utf8"));
const question = "What is a penstock?";
const parameters = { type: "object", properties: { query: { type: "string" } } };

globalThis.AI_SDK_LOG_WARNINGS = false;

// What openai-node makes of a case

function request(one) {
  return {
    model: one.model,
    messages: [{ role: "user", content: question }],
    n: one.n,
    ...(one.tools && { tools: [{ type: "function", function: { name: "lookup", parameters } }] }),
    ...(one.form === "streamed" && one.asksUsage && { stream_options: { include_usage: true } }),
  };
}

const usage = (found) => (found ? [found.prompt_tokens, found.completion_tokens, found.total_tokens] : null);

const call = (id, name, written) => ({ id, name, arguments: JSON.parse(written) });

function read(answer) {
  const choices = answer.choices.map(({ message, finish_reason }) => ({
    role: message.role,
    content: message.content,
    calls: (message.tool_calls ?? []).map((one) => call(one.id, one.function.name, one.function.arguments)),
    finish: finish_reason,
  }));
  return { choices, usage: usage(answer.usage) };
}

// A stream as applications read it: with OpenAI's own loop for tool calls, usage from the chunk that has it. Those that
// did not ask for usage take the first choice of every chunk.
async function joined(client, one) {
  const choices = [];
  let counted = null;
  for await (const chunk of await client.chat.completions.create({ ...request(one), stream: true })) {
    counted = chunk.usage ?? counted;
    for (const { index, delta, finish_reason } of one.asksUsage ? chunk.choices : [chunk.choices[0]]) {
      choices[index] ??= { role: null, content: null, calls: [], finish: null };
      const known = choices[index];
      known.role ??= delta.role ?? null;
      known.finish = finish_reason ?? known.finish;
      if (delta.content) known.content = (known.content ?? "") + delta.content;
      for (const part of delta.tool_calls ?? []) {
        if (known.calls[part.index]) known.calls[part.index].function.arguments += part.function.arguments;
        else known.calls[part.index] = part;
      }
    }
  }
  for (const known of choices) {
    known.calls = known.calls.map((part) => call(part.id, part.function.name, part.function.arguments));
  }
  return { choices, usage: usage(counted) };
}

async function helped(client, one) {
  const runner = client.chat.completions.stream(request(one));
  return read(await runner.finalChatCompletion());
}

// What the AI SDK makes of it

function settings(model, one) {
  const tools = one.tools && { tools: { lookup: tool({ inputSchema: jsonSchema(parameters) }) } };
  return { model, prompt: question, maxRetries: 0, onError() {}, ...tools };
}

function told(role, text, calls, finishReason, used) {
  for (const one of calls) if (one.invalid) throw new TypeError(`invalid tool call: ${one.error}`);
  const counted = used && used.totalTokens !== undefined;
  const choice = {
    role,
    content: text,
    calls: calls.map((one) => ({ id: one.toolCallId, name: one.toolName, arguments: one.input })),
    finish: finishReason,
  };
  return { choices: [choice], usage: counted ? [used.inputTokens, used.outputTokens, used.totalTokens] : null };
}

async function generated(model, one) {
  const answer = await generateText(settings(model, one));
  return told(answer.response.messages[0].role, answer.text, answer.toolCalls, answer.finishReason, answer.usage);
}

async function streamed(model, one) {
  const answer = streamText(settings(model, one));
  for await (const part of answer.fullStream) if (part.type === "error") throw part.error;
  const { messages } = await answer.response;
  return told(
    messages[0]?.role,
    await answer.text,
    await answer.toolCalls,
    await answer.finishReason,
    await answer.usage,
  );
}

async function tried(way, client, one, ask) {
  let outcome;
  try {
    outcome = await ask();
  } catch (error) {
    outcome = { error: { kind: error?.name === "Error" ? error.constructor.name : (error?.name ?? typeof error), message: String(error?.message ?? JSON.stringify(error)) } };
  }
  console.log(JSON.stringify([way, client, one.model, outcome]));
}

for (const [way, baseURL] of Object.entries(ways)) {
  const client = new OpenAI({ baseURL, apiKey: key, maxRetries: 0, timeout: 20_000 });
  const providers = {
    "AI SDK openai": (model) => createOpenAI({ baseURL, apiKey: key }).chat(model),
    "AI SDK compatible": (model) =>
      createOpenAICompatible({ name: "penstock", baseURL, apiKey: key, includeUsage: true })(model),
  };
  for (const one of cases) {
    if (one.form === "whole") {
      await tried(way, "openai-node create", one, async () => read(await client.chat.completions.create(request(one))));
    } else {
      await tried(way, "openai-node create", one, () => joined(client, one));
      await tried(way, "openai-node stream()", one, () => helped(client, one));
    }
    if (one.n > 1) continue;
    for (const [name, provider] of Object.entries(providers)) {
      const model = provider(one.model);
      await tried(way, name, one, () => (one.form === "whole" ? generated(model, one) : streamed(model, one)));
    }
  }
}
