// SPDX-License-Identifier: Apache-2.0

package format

import (
	"bytes"
	"compress/flate"
	_ "embed"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
)

// description is the part of a record that is not secret. It is compressed as
// one, apart from the data: together, the length would tell of the data.
type description struct {
	key, address string
	meta         []byte
}

const (
	encodingRaw      = 0
	encodingDeflate1 = 1 // RFC 1951 with dictionary 1
)

// dictionary1 is part of the format: it never changes. A better one is
// another encoding.
//
//go:embed dictionary-1.txt
var dictionary1 []byte

func appendDescription(b []byte, d description) []byte {
	raw := binary.AppendUvarint(nil, uint64(len(d.key)))
	raw = append(raw, d.key...)
	raw = binary.AppendUvarint(raw, uint64(len(d.address)))
	raw = append(raw, d.address...)
	raw = append(raw, d.meta...)

	encoding, body := byte(encodingRaw), raw
	if small := deflate(raw); len(small) < len(raw) {
		encoding, body = encodingDeflate1, small
	}
	b = append(b, encoding)
	b = binary.AppendUvarint(b, uint64(len(body)))
	return append(b, body...)
}

func (d *decoder) description() description {
	encoding := d.bytes(1)
	body := d.bytes(d.count())
	if d.err != nil {
		return description{}
	}
	raw := bytes.Clone(body)
	switch encoding[0] {
	case encodingRaw:
	case encodingDeflate1:
		var err error
		if raw, err = inflate(body); err != nil {
			d.fail(err)
			return description{}
		}
	default:
		d.fail(fmt.Errorf("unknown encoding %d", encoding[0]))
		return description{}
	}
	inner := decoder{rest: raw}
	key := inner.bytes(inner.count())
	address := inner.bytes(inner.count())
	if inner.err != nil {
		d.fail(inner.err)
		return description{}
	}
	return description{key: string(key), address: string(address), meta: inner.rest}
}

// deflaters are kept: one takes a megabyte.
var deflaters = sync.Pool{New: func() any {
	w, err := flate.NewWriterDict(nil, flate.BestCompression, dictionary1)
	if err != nil {
		panic(err) // the level is a valid one
	}
	return w
}}

func deflate(raw []byte) []byte {
	var b bytes.Buffer
	w := deflaters.Get().(*flate.Writer)
	defer deflaters.Put(w)
	w.Reset(&b)
	_, err := w.Write(raw)
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		panic(err) // a bytes.Buffer takes everything
	}
	return b.Bytes()
}

// inflaters are kept: one takes 40 KB, and a store is full of descriptions.
var inflaters = sync.Pool{New: func() any { return flate.NewReader(nil) }}

func inflate(body []byte) ([]byte, error) {
	in := bytes.NewReader(body)
	inflater := inflaters.Get().(io.Reader)
	defer inflaters.Put(inflater)
	if err := inflater.(flate.Resetter).Reset(in, dictionary1); err != nil {
		return nil, fmt.Errorf("inflating a description: %w", err)
	}
	raw, err := io.ReadAll(io.LimitReader(inflater, MaxDescriptionBytes+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("inflating a description: %w", err)
	case len(raw) > MaxDescriptionBytes:
		return nil, errors.New("a description inflates to more than the format allows")
	case in.Len() > 0:
		return nil, errors.New("bytes after a deflated description")
	}
	return raw, nil
}
