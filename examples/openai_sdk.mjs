// OpenAI's Node SDK: a plain answer, a streamed one, a tool, and structured output.
// npm install openai zod; OPENAI_BASE_URL=http://127.0.0.1:8000/v1 OPENAI_API_KEY=sk-... node openai_sdk.mjs

import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";

const client = new OpenAI(); // reads OPENAI_BASE_URL and OPENAI_API_KEY
const model = "gpt-5.4";

const plain = await client.chat.completions.create({
  model,
  messages: [{ role: "user", content: "When does backoff need jitter?" }],
});
console.log("plain:", plain.choices[0].message.content);

const stream = await client.chat.completions.create({
  model,
  messages: [{ role: "user", content: "Count to five." }],
  stream: true,
  stream_options: { include_usage: true },
});
process.stdout.write("streamed: ");
for await (const chunk of stream) {
  process.stdout.write(chunk.choices[0]?.delta?.content ?? "");
  if (chunk.usage) console.log(` [${chunk.usage.total_tokens} tokens]`);
}

const runner = client.chat.completions.runTools({
  model,
  messages: [{ role: "user", content: "Do I need an umbrella in Oslo?" }],
  tools: [
    {
      type: "function",
      function: {
        name: "get_weather",
        description: "The weather in a city now.",
        parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
        parse: JSON.parse,
        function: ({ city }) => {
          const weather = `7 degrees and rain in ${city}`;
          console.log("tool: get_weather ->", weather);
          return weather;
        },
      },
    },
  ],
});
console.log("tool:", await runner.finalContent());

const Recipe = z.object({ title: z.string(), minutes: z.number().int() });
const structured = await client.chat.completions.parse({
  model,
  messages: [{ role: "user", content: "A quick pasta." }],
  response_format: zodResponseFormat(Recipe, "recipe"),
});
console.log("structured:", structured.choices[0].message.parsed);
