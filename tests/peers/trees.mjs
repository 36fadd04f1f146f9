// Makes CARs of trees that are hard to read, and lists each by the reader of the same project.
//
//   node trees.mjs DIR
//
// Writes NAME.car and NAME.listing.jsonl for each tree. The first line of a listing has the roots and the number
// of blocks, each further line one entry: path, CID, kind, size, digest, mode, time and target of a link.

import { createHash } from 'node:crypto'
import fs from 'node:fs'
import path from 'node:path'
import * as dagCbor from '@ipld/dag-cbor'
import * as dagPb from '@ipld/dag-pb'
import { MemoryBlockstore } from 'blockstore-core'
import { UnixFS } from 'ipfs-unixfs'
import { exporter } from 'ipfs-unixfs-exporter'
import { importer } from 'ipfs-unixfs-importer'
import { fixedSize } from 'ipfs-unixfs-importer/chunker'
import { balanced } from 'ipfs-unixfs-importer/layout'
import { CID } from 'multiformats/cid'
import * as raw from 'multiformats/codecs/raw'
import { sha256 } from 'multiformats/hashes/sha2'

const place = process.argv[2]
const bytes = (text) => new TextEncoder().encode(text)

// The same bytes each time, which repeat nowhere.
function noise (length, seed) {
  const parts = []
  for (let number = 0; number * 32 < length; number++) {
    parts.push(createHash('sha256').update(`${seed} ${number}`).digest())
  }
  return Buffer.concat(parts).subarray(0, length)
}

async function put (store, codec, data) {
  const encoded = codec.encode(data)
  const cid = CID.createV1(codec.code, await sha256.digest(encoded))
  await store.put(cid, encoded)
  return { cid, size: encoded.length }
}

async function read (store, cid) {
  const chunks = []
  for await (const chunk of store.get(cid)) chunks.push(chunk)
  return Buffer.concat(chunks)
}

async function add (store, files, options = {}) {
  const entries = Object.entries(files).map(([name, file]) => ({
    path: `root/${name}`,
    ...(file instanceof Uint8Array ? { content: file } : file)
  }))
  let last
  for await (const added of importer(entries, store, { wrapWithDirectory: false, ...options })) last = added
  return last.cid
}

const SMALL_CHUNKS = {
  chunker: fixedSize({ chunkSize: 1024 }),
  layout: balanced({ maxChildrenPerNode: 4 })
}
const numbered = (count) => Object.fromEntries(
  Array.from({ length: count }, (_, number) => [`entry ${number}`, bytes(`${number % 10}`)])
)

// Each gets a store, and gives a root.
const TREES = {
  // Files of several levels in a HAMT of several levels.
  'hamt-of-several-levels': (store) => add(
    store,
    { ...numbered(700), 'large file': noise(40_000, 'large') },
    { ...SMALL_CHUNKS, shardSplitThresholdBytes: 0 }
  ),
  // So many entries that the root of the HAMT has shards alone.
  'shards-without-leaves': async (store) => {
    const root = await add(store, numbered(4000), { shardSplitThresholdBytes: 0 })
    const { Links } = dagPb.decode(await read(store, root))
    if (Links.some(({ Name }) => Name.length > 2)) throw new Error('the root has a leaf')
    return root
  },
  'hamt-of-one-entry': (store) => add(store, numbered(1), { shardSplitThresholdBytes: 0 }),
  // One file of raw and of dag-pb leaves, and files of both kinds.
  'mixed-leaves': async (store) => {
    const [first, second, third] = ['first ', 'second ', 'third'].map(bytes)
    const wrapped = async (type, data) =>
      put(store, dagPb, { Data: new UnixFS({ type, data }).marshal(), Links: [] })
    const leaves = [
      [await put(store, raw, first), first],
      [await wrapped('file', second), second],
      [await wrapped('raw', third), third]
    ]
    const node = new UnixFS({ type: 'file' })
    leaves.forEach(([, data]) => node.addBlockSize(BigInt(data.length)))
    const Links = leaves.map(([{ cid, size }]) => ({ Name: '', Hash: cid, Tsize: size }))
    const file = await put(store, dagPb, { Data: node.marshal(), Links })
    const single = await wrapped('file', bytes('alone'))
    const entries = [['mixed', file], ['raw', leaves[0][0]], ['wrapped', single]]
    const directory = new UnixFS({ type: 'directory' })
    const links = entries.map(([Name, { cid, size }]) => ({ Name, Hash: cid, Tsize: size + 50 }))
    return (await put(store, dagPb, { Data: directory.marshal(), Links: links })).cid
  },
  'mode-and-mtime': async (store) => {
    const at = (secs, nsecs) => (nsecs === undefined ? { secs: BigInt(secs) } : { secs: BigInt(secs), nsecs })
    return add(store, {
      'one chunk': { content: noise(1024, 'one'), mode: 0o640, mtime: at(1_700_000_000, 123_456_789) },
      'several chunks': { content: noise(5000, 'several'), mode: 0o755, mtime: at(1) },
      empty: { content: new Uint8Array(0), mode: 0o600, mtime: at(-5) },
      directory: { mode: 0o750, mtime: at(1_600_000_000, 1) },
      'directory/below': { content: bytes('below'), mode: 0o444, mtime: at(2_000_000_000) }
    }, SMALL_CHUNKS)
  },
  'odd-names': async (store) => {
    const names = [
      ' ', '  leading', 'trailing ', '-rf', '#', '?', '%', '%41', 'a%2Fb', '*', '$HOME', '`id`', '"', "'", '\\', '~',
      'new\nline', 'tab\t', 'bell\u0007', '...', '.hidden', 'ü', 'u\u0308', '\u{1f600}', '日本語', '\u202etxt',
      'x'.repeat(255)
    ]
    return add(store, Object.fromEntries(names.map((name) => [name, bytes(name)])))
  },
  'car-version-2': (store) => add(store, { file: noise(5000, 'v2') }, SMALL_CHUNKS)
}

function varint (value) {
  const out = []
  for (; value > 127; value >>>= 7) out.push(value & 127 | 128)
  return Uint8Array.from([...out, value])
}

// The blocks of `store` as a CAR of version 1.
async function car (store, root) {
  const header = dagCbor.encode({ version: 1, roots: [root] })
  const parts = [varint(header.length), header]
  let blocks = 0
  for await (const { cid } of store.getAll()) {
    const block = await read(store, cid)
    parts.push(varint(cid.bytes.length + block.length), cid.bytes, block)
    blocks++
  }
  return { file: Buffer.concat(parts), blocks }
}

// The same in a frame of version 2, without an index.
function version2 (inner) {
  const pragma = Buffer.from('0aa16776657273696f6e02', 'hex')
  const header = Buffer.alloc(40)
  header.writeBigUInt64LE(BigInt(pragma.length + header.length), 16)
  header.writeBigUInt64LE(BigInt(inner.length), 24)
  return Buffer.concat([pragma, header, inner])
}

async function * list (store, cid, at, hasModes) {
  const entry = await exporter(cid, store)
  const line = { path: at, cid: cid.toString(), type: entry.type, unixfs: entry.unixfs?.type }
  if (hasModes && entry.unixfs !== undefined && at !== '') {
    const { mode, mtime } = entry.unixfs
    line.mode = mode
    if (mtime !== undefined) line.mtime = { secs: Number(mtime.secs), nsecs: mtime.nsecs ?? 0 }
  }
  if (entry.type === 'directory') {
    yield line
    for await (const child of entry.entries()) yield * list(store, child.cid, `${at}/${child.name}`, hasModes)
    return
  }
  const digest = createHash('sha256')
  line.size = 0
  for await (const chunk of entry.content()) {
    digest.update(chunk)
    line.size += chunk.length
  }
  yield { ...line, sha256: digest.digest('hex') }
}

fs.mkdirSync(place, { recursive: true })
for (const [name, make] of Object.entries(TREES)) {
  const store = new MemoryBlockstore()
  const root = await make(store)
  const { file, blocks } = await car(store, root)
  const lines = [{ car: `${name}.car`, roots: [root.toString()], blocks }]
  for await (const line of list(store, root, '', name === 'mode-and-mtime')) lines.push(line)
  fs.writeFileSync(path.join(place, `${name}.car`), name === 'car-version-2' ? version2(file) : file)
  fs.writeFileSync(
    path.join(place, `${name}.listing.jsonl`),
    lines.map((line) => JSON.stringify(line) + '\n').join('')
  )
}
