// The Vercel AI SDK, by its provider for OpenAI-compatible servers and OpenAI's own: `node ai_sdk.mjs OPERATION`.

import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { embedMany, generateText, Output, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

const { DATABRICKS_HOST, DATABRICKS_TOKEN } = process.env;
const baseURL = `${DATABRICKS_HOST}/serving-endpoints`;
const databricks = createOpenAICompatible({
  name: "databricks",
  baseURL,
  apiKey: DATABRICKS_TOKEN,
  supportsStructuredOutputs: true,
});
const agents = createOpenAI({ baseURL, apiKey: DATABRICKS_TOKEN });
const hello = { model: databricks("smollm2-chat"), prompt: "hello", temperature: 0, maxOutputTokens: 12, maxRetries: 0 };
const asked = { ...hello, model: agents.responses("smollm2-agent") };
const City = z.object({ name: z.string(), people: z.number().int() });

function weather(called) {
  return tool({
    description: "Get the current weather of a city.",
    inputSchema: z.object({ city: z.string() }),
    execute: async ({ city }) => {
      called.push(city);
      return `It is 18 degrees in ${city}.`;
    },
  });
}

async function read(stream) {
  const pieces = [];
  for await (const piece of stream.textStream) pieces.push(piece);
  return { pieces, text: await stream.text, total: (await stream.usage).totalTokens };
}

const operations = {
  async chat() {
    const { text, usage } = await generateText(hello);
    return { text, total: usage.totalTokens };
  },
  stream: () => read(streamText(hello)),
  async tools() {
    const get_weather = tool({ ...weather([]), execute: undefined });
    const { toolCalls, finishReason } = await generateText({
      ...hello,
      prompt: "What is the weather in Paris?",
      maxOutputTokens: 60,
      tools: { get_weather },
      toolChoice: "required",
    });
    return { name: toolCalls[0].toolName, arguments: toolCalls[0].input, reason: finishReason };
  },
  async agent() {
    const called = [];
    const { text, steps } = await generateText({
      ...hello,
      prompt: "What is the weather in Paris?",
      maxOutputTokens: 60,
      tools: { get_weather: weather(called) },
      stopWhen: stepCountIs(4),
    });
    return { text, called, steps: steps.length };
  },
  async schema() {
    const { output } = await generateText({
      ...hello,
      prompt: "Name a city.",
      maxOutputTokens: 60,
      output: Output.object({ schema: City }),
    });
    return { parsed: output };
  },
  async completions() {
    const model = databricks.completionModel("smollm2-completions");
    return { text: (await generateText({ ...hello, model, prompt: "Rivers are" })).text };
  },
  async embeddings() {
    const model = databricks.textEmbeddingModel("databricks-bge-large-en");
    const { embeddings } = await embedMany({ model, values: ["hello", "bye"], maxRetries: 0 });
    return { sizes: embeddings.map((one) => one.length), number: typeof embeddings[0][0] };
  },
  async responses() {
    const { text, usage } = await generateText(asked);
    return { text, total: usage.totalTokens };
  },
  responses_stream: () => read(streamText(asked)),
  async errors() {
    const failures = {};
    try {
      await generateText({ ...hello, model: databricks("nowhere") });
    } catch (error) {
      failures.missing = [error.name === "AI_APICallError", error.statusCode, error.responseBody];
    }
    try {
      const other = createOpenAICompatible({ name: "databricks", baseURL, apiKey: "wrong" });
      await generateText({ ...hello, model: other("smollm2-chat") });
    } catch (error) {
      failures.token = [error.name === "AI_APICallError", error.statusCode, error.responseBody];
    }
    return failures;
  },
};

console.log(JSON.stringify(await operations[process.argv[2]]()));
