// OpenAI's client for Node.js: `node openai.mjs OPERATION` prints what came, as JSON.

import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";

const { DATABRICKS_HOST, DATABRICKS_TOKEN } = process.env;
const client = new OpenAI({ baseURL: `${DATABRICKS_HOST}/serving-endpoints`, apiKey: DATABRICKS_TOKEN, maxRetries: 0 });
const hello = { model: "smollm2-chat", messages: [{ role: "user", content: "hello" }], max_tokens: 12, temperature: 0 };
const question = [{ role: "user", content: "What is the weather in Paris?" }];
const weather = {
  name: "get_weather",
  description: "Get the current weather of a city.",
  parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
};
const City = z.object({ name: z.string(), people: z.number().int() });

const operations = {
  async chat() {
    const { choices, usage } = await client.chat.completions.create(hello);
    return { text: choices[0].message.content, total: usage.total_tokens };
  },
  async stream() {
    const stream = await client.chat.completions.create({ ...hello, stream: true });
    const pieces = [];
    for await (const chunk of stream) pieces.push(chunk.choices[0]?.delta?.content ?? "");
    return { pieces };
  },
  async stream_helper() {
    const stream = client.chat.completions.stream(hello);
    const pieces = [];
    stream.on("content", (piece) => pieces.push(piece));
    return { text: await stream.finalContent(), pieces };
  },
  async tools() {
    const { choices } = await client.chat.completions.create({
      ...hello,
      max_tokens: 60,
      messages: question,
      tools: [{ type: "function", function: weather }],
      tool_choice: "required",
    });
    const call = choices[0].message.tool_calls[0].function;
    return { name: call.name, arguments: JSON.parse(call.arguments), reason: choices[0].finish_reason };
  },
  async agent() {
    const called = [];
    const tool = {
      type: "function",
      function: {
        ...weather,
        parse: JSON.parse,
        function: ({ city }) => {
          called.push(city);
          return `It is 18 degrees in ${city}.`;
        },
      },
    };
    const runner = client.chat.completions.runTools({ ...hello, max_tokens: 60, messages: question, tools: [tool] });
    return { text: await runner.finalContent(), called };
  },
  async schema() {
    const { choices } = await client.chat.completions.parse({
      ...hello,
      max_tokens: 60,
      messages: [{ role: "user", content: "Name a city." }],
      response_format: zodResponseFormat(City, "city"),
    });
    return { parsed: choices[0].message.parsed };
  },
  async completions() {
    const body = { model: "smollm2-completions", prompt: "Rivers are", max_tokens: 6 };
    const { choices } = await client.completions.create(body);
    return { text: choices[0].text };
  },
  async embeddings() {
    // The client asks for base64 by itself and decodes it.
    const { data } = await client.embeddings.create({ model: "databricks-bge-large-en", input: ["hello", "bye"] });
    return { sizes: data.map((one) => one.embedding.length), number: typeof data[0].embedding[0] };
  },
  async responses() {
    const body = { model: "smollm2-agent", input: "hello", max_output_tokens: 12 };
    const { output_text: text, usage } = await client.responses.create(body);
    return { text, total: usage.total_tokens };
  },
  async responses_stream() {
    const stream = client.responses.stream({ model: "smollm2-agent", input: "hello", max_output_tokens: 12 });
    const pieces = [];
    stream.on("response.output_text.delta", (event) => pieces.push(event.delta));
    return { text: (await stream.finalResponse()).output_text, pieces };
  },
  async errors() {
    const failures = {};
    try {
      await client.chat.completions.create({ ...hello, model: "nowhere" });
    } catch (error) {
      failures.missing = [error instanceof OpenAI.NotFoundError, error.status, error.message];
    }
    try {
      await new OpenAI({ baseURL: client.baseURL, apiKey: "wrong", maxRetries: 0 }).chat.completions.create(hello);
    } catch (error) {
      failures.token = [error instanceof OpenAI.PermissionDeniedError, error.status, error.message];
    }
    return failures;
  },
};

console.log(JSON.stringify(await operations[process.argv[2]]()));
