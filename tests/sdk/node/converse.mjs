// Holds every conversation of the tests with one server, and prints what came of them as one JSON object.

import OpenAI from "openai";

const { BASE_URL: baseURL, API_KEY: apiKey } = process.env;
const request = JSON.parse(process.env.REQUEST);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0, timeout: 30_000 });

async function create() {
  const { data, response } = await client.chat.completions.create(request).withResponse();
  return {
    answer: data,
    requestId: data._request_id,
    headers: Object.fromEntries(response.headers),
  };
}

async function stream() {
  const chunks = [];
  const events = await client.chat.completions.create({
    ...request,
    stream: true,
    stream_options: { include_usage: true },
  });
  for await (const chunk of events) chunks.push(chunk);
  return { chunks };
}

async function helper() {
  const contents = [];
  const runner = client.chat.completions.stream({ ...request, stream: true });
  runner.on("content", (delta) => contents.push(delta));
  const completion = await runner.finalChatCompletion();
  return { contents, completion };
}

async function failure(call) {
  try {
    await call();
  } catch (error) {
    return {
      name: error.constructor.name,
      status: error.status,
      type: error.type,
      code: error.code,
      param: error.param,
      requestId: error.requestID,
    };
  }
  return null;
}

const stranger = new OpenAI({ baseURL, apiKey: "sk-wrong-0123456789", maxRetries: 0 });

console.log(
  JSON.stringify({
    create: await create(),
    stream: await stream(),
    helper: await helper(),
    models: (await client.models.list()).data.map((model) => model.id),
    errors: {
      unauthorized: await failure(() => stranger.chat.completions.create(request)),
      unauthorizedStream: await failure(() => stranger.chat.completions.create({ ...request, stream: true })),
      unknownModel: await failure(() => client.chat.completions.create({ ...request, model: "no-such-model" })),
      badRequest: await failure(() => client.chat.completions.create({ ...request, temperature: 3 })),
    },
  }),
);
