// A Helia 7 node in memory, on loopback TCP, told what to do by lines of JSON on standard input.
//
//   node helia.mjs
//
// Takes ["add", PATH], ["connect", ADDRESS] and ["get", CID, PATH], and answers each by one line of
// JSON on standard output; the first line there names the addresses. Ends with its input.

import fs from 'node:fs'
import path from 'node:path'
import readline from 'node:readline'
import { pipeline } from 'node:stream/promises'
import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { withBitswap } from '@helia/bitswap'
import { withLibp2pLight } from '@helia/libp2p'
import { unixfs } from '@helia/unixfs'
import { identify } from '@libp2p/identify'
import { ping } from '@libp2p/ping'
import { tcp } from '@libp2p/tcp'
import { multiaddr } from '@multiformats/multiaddr'
import { createHeliaLight } from 'helia'
import { exporter } from 'ipfs-unixfs-exporter'
import { fixedSize } from 'ipfs-unixfs-importer/chunker'
import { balanced } from 'ipfs-unixfs-importer/layout'
import { CID } from 'multiformats/cid'

const answer = (value) => process.stdout.write(JSON.stringify(value) + '\n')

// What Kubo does by default.
const PROFILE = {
  cidVersion: 0,
  rawLeaves: false,
  reduceSingleLeafToSelf: true,
  chunker: fixedSize({ chunkSize: 256 * 1024 }),
  layout: balanced({ maxChildrenPerNode: 174 })
}

const node = withBitswap(withLibp2pLight(createHeliaLight(), {
  addresses: { listen: ['/ip4/127.0.0.1/tcp/0'] },
  transports: [tcp()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  services: { identify: identify(), ping: ping() }
}))
await node.start()
const files = unixfs(node)
answer({ addresses: node.libp2p.getMultiaddrs().map(String) })

async function * entries (directory, name) {
  for (const entry of await fs.promises.readdir(directory, { withFileTypes: true })) {
    const [below, full] = [path.join(directory, entry.name), `${name}/${entry.name}`]
    if (entry.isDirectory()) yield * entries(below, full)
    else yield { path: full, content: fs.createReadStream(below) }
  }
}

async function add (source) {
  if (fs.statSync(source).isFile()) return files.addByteStream(fs.createReadStream(source), PROFILE)
  let last
  for await (const added of files.addAll(entries(source, 'root'), PROFILE)) last = added.cid
  return last
}

async function get (cid, target) {
  const entry = await exporter(cid, node.blockstore)
  if (entry.type !== 'directory') return pipeline(entry.content(), fs.createWriteStream(target))
  await fs.promises.mkdir(target)
  for await (const child of entry.entries()) await get(child.cid, path.join(target, child.name))
}

for await (const line of readline.createInterface({ input: process.stdin })) {
  const [what, ...given] = JSON.parse(line)
  try {
    if (what === 'add') answer({ cid: (await add(given[0])).toString() })
    else if (what === 'connect') answer({ done: Boolean(await node.libp2p.dial(multiaddr(given[0]))) })
    else if (what === 'get') answer({ done: (await get(CID.parse(given[0]), given[1])) === undefined })
    else process.exit(2)
  } catch (error) {
    answer({ error: String(error?.stack ?? error) })
  }
}
process.exit(0)
