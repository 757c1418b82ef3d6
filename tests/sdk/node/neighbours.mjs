// Asks one server for what stands beside chat completions, by openai-node and Vercel's AI SDK; prints one JSON object.

import { createOpenAI } from "@ai-sdk/openai";
import { embedMany, generateText, streamText } from "ai";
import OpenAI from "openai";

globalThis.AI_SDK_LOG_WARNINGS = false;

const { BASE_URL: baseURL, API_KEY: apiKey } = process.env;
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0, timeout: 30_000 });
const ai = createOpenAI({ baseURL, apiKey });

async function collect(stream) {
  const found = [];
  for await (const one of await stream) found.push(one);
  return found;
}

async function failure(call) {
  try {
    await call();
  } catch (error) {
    return { name: error.constructor.name, status: error.status ?? null, code: error.code ?? null };
  }
  return null;
}

async function helper() {
  const runner = client.responses.stream({ model: "m", input: "Hello" });
  let text = "";
  runner.on("response.output_text.delta", (event) => (text += event.delta));
  const response = await runner.finalResponse();
  return { text, outputText: response.output_text };
}

async function vercel() {
  const whole = await generateText({ model: ai.responses("m"), prompt: "Hello", maxRetries: 0 });
  const streamed = streamText({ model: ai.responses("m"), prompt: "Hello", maxRetries: 0 });
  const dead = streamText({ model: ai.responses("dies"), prompt: "Hello", maxRetries: 0, onError() {} });
  const parts = await collect(dead.fullStream);
  const { embeddings, usage } = await embedMany({ model: ai.embedding("m"), values: ["a", "b"], maxRetries: 0 });
  const completion = await generateText({ model: ai.completion("m"), prompt: "Once", maxRetries: 0 });
  return {
    whole: whole.text,
    streamed: await streamed.text,
    finish: await streamed.finishReason,
    dead: parts.map((part) => part.type),
    embeddings,
    tokens: usage.tokens,
    completion: completion.text,
  };
}

console.log(
  JSON.stringify({
    encoded: await client.embeddings.create({ model: "m", input: ["a", "b"] }),
    plain: await client.embeddings.create({ model: "m", input: ["a", "b"], encoding_format: "float" }),
    completion: await client.completions.create({ model: "m", prompt: "Once", max_tokens: 3 }),
    chunks: await collect(
      client.completions.create({
        model: "m",
        prompt: "Once",
        stream: true,
        stream_options: { include_usage: true },
      }),
    ),
    response: await client.responses.create({ model: "m", input: "Hello" }),
    events: await collect(client.responses.create({ model: "m", input: "Hello", stream: true })),
    helper: await helper(),
    vercel: await vercel(),
    errors: {
      empty: await failure(() => client.embeddings.create({ model: "m", input: "" })),
      unknownModel: await failure(() => client.responses.create({ model: "no-such-model", input: "x" })),
      limited: await failure(() => client.embeddings.create({ model: "limited", input: "x" })),
      brokenResponse: await failure(() =>
        collect(client.responses.create({ model: "dies", input: "x", stream: true })),
      ),
      brokenCompletion: await failure(() =>
        collect(client.completions.create({ model: "breaks", prompt: "x", stream: true })),
      ),
    },
  }),
);
