// SPDX-License-Identifier: Apache-2.0

package wal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

const (
	magic   = "J5TS"
	version = 1

	fileHeaderBytes = 8 // magic, version, three zero bytes
	entryOverhead   = 1 + 4 + 4
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func fileHeader() []byte { return append([]byte(magic), version, 0, 0, 0) }

// append encodes an entry: kind, length, body, and CRC-32C of all three.
func (e Entry) append(b []byte) []byte {
	begin := len(b)
	b = append(b, byte(e.Kind))
	b = binary.BigEndian.AppendUint32(b, uint32(len(e.Body)))
	b = append(b, e.Body...)
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b[begin:], castagnoli))
}

func encode(b []byte, entries []Entry) []byte {
	for _, e := range entries {
		b = e.append(b)
	}
	return b
}

// decode reads entries up to the first one that is not whole; whole is the
// number of bytes up to there. Only the tail can be torn without damage to the
// disk: an entry is on disk before the next one is written.
func decode(b []byte) (entries []Entry, whole int, err error) {
	if len(b) == 0 {
		return nil, 0, nil
	}
	if len(b) < fileHeaderBytes || string(b[:len(magic)]) != magic {
		return nil, 0, errors.New("it is no write-ahead log of a token")
	}
	if header := fileHeader(); string(b[:fileHeaderBytes]) != string(header) {
		return nil, 0, fmt.Errorf("it is of version %d, and this is version %d", b[len(magic)], version)
	}
	whole = fileHeaderBytes
	for rest := b[whole:]; len(rest) >= entryOverhead; rest = b[whole:] {
		length := binary.BigEndian.Uint32(rest[1:])
		if uint64(length) > uint64(len(rest)-entryOverhead) {
			break
		}
		end := 5 + int(length)
		if crc32.Checksum(rest[:end], castagnoli) != binary.BigEndian.Uint32(rest[end:]) {
			break
		}
		entries = append(entries, Entry{Kind: Kind(rest[0]), Body: rest[5:end:end]})
		whole += end + 4
	}
	return entries, whole, nil
}
