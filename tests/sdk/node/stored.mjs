// Stores a completion by openai-node and does with it what OpenAI's API has for it; prints one JSON object.

import OpenAI from "openai";

const { BASE_URL: baseURL, API_KEY: apiKey } = process.env;
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0, timeout: 30_000 });
const completions = client.chat.completions;
const asked = { model: "gpt-5.4", messages: [{ role: "user", content: "Say hello." }], max_tokens: 400 };

async function collect(pages) {
  const found = [];
  for await (const one of await pages) found.push(one);
  return found;
}

const mark = `node-${Date.now()}`;
const made = await completions.create({ ...asked, store: true, metadata: { mark } });
const stream = completions.stream({ ...asked, store: true, metadata: { mark } });
const streamed = await stream.finalChatCompletion();
const options = { headers: { "Idempotency-Key": mark } };

console.log(
  JSON.stringify({
    made,
    streamed,
    retrieved: await completions.retrieve(made.id),
    streamRetrieved: await completions.retrieve(streamed.id),
    listed: (await collect(completions.list({ metadata: { mark }, limit: 1 }))).map((one) => one.id),
    messages: await collect(completions.messages.list(made.id)),
    updated: await completions.update(made.id, { metadata: { mark, more: "yes" } }),
    deleted: await completions.delete(made.id),
    gone: await completions.retrieve(made.id).catch((error) => error.status),
    repeats: [await completions.create(asked, options), await completions.create(asked, options)],
  }),
);
