// Vercel's AI SDK: a streamed text, a tool that the model calls, and an object that keeps to a schema.
// npm install ai @ai-sdk/openai zod; OPENAI_BASE_URL=http://127.0.0.1:8000/v1 OPENAI_API_KEY=sk-... node vercel_ai_sdk.mjs

import { openai } from "@ai-sdk/openai"; // reads OPENAI_BASE_URL and OPENAI_API_KEY
import { generateText, Output, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

const model = openai.chat("gpt-5.4");

const streamed = streamText({ model, prompt: "Count to five." });
process.stdout.write("streamed: ");
for await (const text of streamed.textStream) process.stdout.write(text);
console.log();

const getWeather = tool({
  description: "The weather in a city now.",
  inputSchema: z.object({ city: z.string() }),
  execute: async ({ city }) => `7 degrees and rain in ${city}`,
});
const called = await generateText({
  model,
  prompt: "Do I need an umbrella in Oslo?",
  tools: { getWeather },
  stopWhen: stepCountIs(3),
});
for (const step of called.steps) for (const result of step.toolResults) console.log("tool:", result.output);
console.log("tool:", called.text);

const structured = await generateText({
  model,
  prompt: "A quick pasta.",
  output: Output.object({ schema: z.object({ title: z.string(), minutes: z.number().int() }) }),
});
console.log("structured:", structured.output);
