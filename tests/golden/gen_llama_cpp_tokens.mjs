// Compares tokens.json with llama.cpp's tokenizer, a second and independent reference; prints the agreement.
//
//     npm install node-llama-cpp@3.22.1 && node gen_llama_cpp_tokens.mjs MODEL.gguf tokens.json
//
// 200 of 200 texts agree with node-llama-cpp 3.22.1. Special tokens in the text are parsed, none are added. Differences go to stderr, one line a text.
import { readFileSync } from "node:fs";
import { getLlama, LlamaLogLevel } from "node-llama-cpp";

const [modelPath, tokensPath] = process.argv.slice(2);
const llama = await getLlama({ gpu: false, build: "never", logLevel: LlamaLogLevel.error });
const model = await llama.loadModel({ modelPath, vocabOnly: true });
const golden = JSON.parse(readFileSync(tokensPath, "utf8"));
let agreed = 0;
for (const { text, ids } of golden) {
  const found = Array.from(model.tokenize(text, true));
  if (JSON.stringify(found) === JSON.stringify(ids)) agreed += 1;
  else console.error(JSON.stringify({ text: text.slice(0, 40), ids: ids.slice(0, 30), llama_cpp: found.slice(0, 30) }));
}
console.log(`${agreed} of ${golden.length} texts agree`);
process.exit(0);
