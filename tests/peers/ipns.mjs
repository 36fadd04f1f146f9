// Makes and reads records of mutable names by the package `ipns`.
//
//   node ipns.mjs read NAME < RECORD             prints the value of a record that is valid for NAME
//   node ipns.mjs make VALUE SEQUENCE V1 < KEY   writes a record, with the fields of version 1 if V1 is true

import { keys } from '@libp2p/crypto'
import { createIPNSRecord, marshalIPNSRecord, multihashToIPNSRoutingKey, unmarshalIPNSRecord } from 'ipns'
import { ipnsValidator } from 'ipns/validator'
import { base36 } from 'multiformats/bases/base36'
import { CID } from 'multiformats/cid'
import fs from 'node:fs'

const [what, ...given] = process.argv.slice(2)
const input = fs.readFileSync(0)
if (what === 'read') {
  const name = CID.parse(given[0], base36)
  await ipnsValidator(multihashToIPNSRoutingKey(name.multihash), input)
  console.log(unmarshalIPNSRecord(input).value)
} else {
  const [value, sequence, isCompatible] = given
  const key = keys.privateKeyFromProtobuf(input)
  const options = { v1Compatible: isCompatible === 'true' }
  const record = await createIPNSRecord(key, value, BigInt(sequence), 3600 * 1000, options)
  process.stdout.write(marshalIPNSRecord(record))
}
