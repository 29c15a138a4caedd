// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"

	"google.golang.org/grpc"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/pkg/agent/mvcc"
)

// List implements the Store service. All its records are as of one revision,
// though their data is read in chunks between which the token serves others:
// data that was overwritten meanwhile comes from the history.
func (s *storeService) List(in *agentv1.ListRequest, stream grpc.ServerStreamingServer[agentv1.ListResponse]) error {
	if in.GetLimit() < 0 {
		return invalidError("a list has a limit of %d", in.GetLimit())
	}
	if err := s.ready(); err != nil {
		return err
	}
	x, revision, err := s.versions.At(in.GetRevision())
	if err != nil {
		return requestError(err)
	}
	var page []*mvcc.Record
	end := &agentv1.ListEnd{Revision: revision}
	_, end.Serial = s.state.identity()
	for r := range x.Scan(in.GetPrefix(), in.GetStartKey()) {
		if in.GetLimit() > 0 && int64(len(page)) == in.GetLimit() {
			end.Remaining++
			continue
		}
		page = append(page, r)
	}
	read := s.readChunk
	if in.GetWithoutData() {
		read = metaChunk
	}
	for len(page) > 0 {
		chunk, err := read(stream.Context(), page)
		if err != nil {
			return err
		}
		page = page[len(chunk):]
		if err := stream.Send(&agentv1.ListResponse{Records: chunk}); err != nil {
			return err
		}
	}
	return stream.Send(&agentv1.ListResponse{End: end})
}

// metaChunk gives as many of the records as make a message, without data.
func metaChunk(_ context.Context, page []*mvcc.Record) (chunk []*agentv1.Record, err error) {
	size := 0
	for _, r := range page {
		if size >= chunkBytes {
			break
		}
		chunk = append(chunk, withoutData(r))
		size += recordSize(r)
	}
	return chunk, nil
}

// readChunk gives as many of the records as make a message, with their data.
func (s *storeService) readChunk(ctx context.Context, page []*mvcc.Record) ([]*agentv1.Record, error) {
	var chunk []*agentv1.Record
	var keys []string
	err := s.queue.do(ctx, callTask(func(w *worker) error {
		size := 0
		chunk, keys = nil, nil
		for _, r := range page {
			if size >= chunkBytes {
				break
			}
			if ctx.Err() != nil {
				return abandoned(ctx.Err())
			}
			data, err := w.data(r.Version())
			if err != nil {
				return err
			}
			chunk = append(chunk, withData(r, data))
			keys = append(keys, r.Key)
			size += recordSize(r) + len(data)
		}
		return nil
	}), abandoned)
	if err != nil {
		return nil, err
	}
	audit(ctx, "Values read", "keys", keys)
	return chunk, nil
}

func recordSize(r *mvcc.Record) int {
	const fixed = 64
	return fixed + len(r.Key) + len(r.Address) + len(r.Meta) + len(r.Status)
}
