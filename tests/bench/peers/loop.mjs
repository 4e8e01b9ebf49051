// A bare loop on Node: amqplib takes, undici posts, with SCHEMA ajv validates first. No retries, no metrics.
import { readFileSync } from "node:fs";
import addFormats from "ajv-formats";
import Ajv2020 from "ajv/dist/2020.js";
import amqp from "amqplib";
import { Pool } from "undici";

const { BROKER_URL, QUEUE, REGISTRY_URL, CA_FILE, SCHEMA, IN_FLIGHT } = process.env;
const connect = CA_FILE ? { ca: readFileSync(CA_FILE) } : {};
const pool = new Pool(REGISTRY_URL, { connections: Number(IN_FLIGHT), pipelining: 1, connect });
const headers = { authorization: "Bearer token", "content-type": "application/json" };
let validate = () => true;
if (SCHEMA) {
  const ajv = new Ajv2020({ strict: false, allErrors: false });
  addFormats(ajv);
  validate = ajv.compile(JSON.parse(readFileSync(SCHEMA, "utf8")));
}

const channel = await (await amqp.connect(BROKER_URL)).createChannel();
await channel.prefetch(2 * Number(IN_FLIGHT));
await channel.consume(QUEUE, async (message) => {
  if (SCHEMA && !validate(JSON.parse(message.content))) throw new Error("a journey is not valid");
  const { statusCode, body } = await pool.request({ path: "/v2/journeys", method: "POST", headers, body: message.content });
  await body.text();
  if (statusCode !== 201) throw new Error(`status ${statusCode}`);
  channel.ack(message);
});
