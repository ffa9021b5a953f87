// transformers.js, run by scripts/interop with Node.js: arguments ENVIRONMENT DIRECTORY GRAPH OUT, texts on stdin as JSON.
// Writes the vectors of its feature-extraction pipeline as JSON.
import { readFileSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { basename, dirname } from 'node:path'

const [environment, directory, graph, out] = process.argv.slice(2)
const { env, pipeline } = createRequire(`${environment}/package.json`)('@huggingface/transformers')
const DTYPES = { 'model.onnx': 'fp32', 'model_fp16.onnx': 'fp16', 'model_quantized.onnx': 'q8', 'model_q4.onnx': 'q4' }
const POOLINGS = { cls: 'cls', mean: 'mean', lasttoken: 'last_token' }

env.allowRemoteModels = false
env.localModelPath = dirname(directory)
const name = basename(directory)
const dtype = DTYPES[basename(graph)]
const texts = JSON.parse(readFileSync(0, 'utf-8'))
const read = (file) => JSON.parse(readFileSync(`${directory}/${file}`, 'utf-8'))
const settings = read('1_Pooling/config.json')
const mode = settings.pooling_mode ?? Object.keys(settings).find((key) => settings[key] === true && key.startsWith('pooling_mode_'))
const pooling = POOLINGS[mode.replace('pooling_mode_', '').replace(/_tokens?$/, '')]

const extract = await pipeline('feature-extraction', name, { dtype })
extract.tokenizer._tokenizerConfig.model_max_length = Object.values(read('artifact.json').precisions)[0].model.max_tokens // the pipeline takes no length
const vectors = []
for (const text of texts) vectors.push(...(await extract(text, { pooling, normalize: true })).tolist())
writeFileSync(out, JSON.stringify(vectors))
