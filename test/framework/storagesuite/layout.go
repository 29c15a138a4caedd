// SPDX-License-Identifier: Apache-2.0

package storagesuite

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"unsafe"

	"k8s.io/apimachinery/pkg/api/apitesting"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apiserver/pkg/apis/example"
	examplev1 "k8s.io/apiserver/pkg/apis/example/v1"
	storagetesting "k8s.io/apiserver/pkg/storage/testing"
	"k8s.io/apiserver/pkg/storage/value"

	agentv1 "j5t.io/hsm/pkg/agent/api/v1"
	"j5t.io/hsm/pkg/storage/records"
)

const valuePrefix = "test!"

// layout keeps a whole Pod behind a value.Transformer, which the suite
// exchanges to make stored values unreadable.
type layout struct {
	records.Whole
	codec       *codec
	transformer atomic.Pointer[value.Transformer]
	// split holds the plain bytes of what Split gave, by its first byte. As in
	// etcd3, the store's own answer to a write passes no transformer: one of the
	// suite's writes whenever something is read.
	split sync.Map
}

func newLayout() *layout {
	scheme := runtime.NewScheme()
	metav1.AddToGroupVersion(scheme, metav1.SchemeGroupVersion)
	for _, add := range []func(*runtime.Scheme) error{example.AddToScheme, examplev1.AddToScheme} {
		if err := add(scheme); err != nil {
			panic(err)
		}
	}
	c := &codec{Codec: apitesting.TestCodec(serializer.NewCodecFactory(scheme), examplev1.SchemeGroupVersion)}
	l := &layout{Whole: records.Whole{Codec: c}, codec: c}
	l.setTransformer(storagetesting.NewPrefixTransformer([]byte(valuePrefix), false))
	return l
}

func (l *layout) setTransformer(t value.Transformer) { l.transformer.Store(&t) }

// Split implements records.Layout. A value that the transformer calls stale is
// one that it would write otherwise now: here with a newline.
func (l *layout) Split(obj runtime.Object) (records.Parts, error) {
	parts, err := l.Whole.Split(obj)
	if err != nil {
		return parts, err
	}
	t := *l.transformer.Load()
	if prefix, ok := t.(*storagetesting.PrefixTransformer); ok {
		probe, err := prefix.TransformToStorage(context.Background(), parts.Data, value.DefaultContext{})
		if err != nil {
			return parts, err
		}
		if _, stale, _ := prefix.TransformFromStorage(context.Background(), probe, value.DefaultContext{}); stale {
			parts.Data = append(parts.Data, '\n')
		}
	}
	plain := parts.Data
	parts.Data, err = t.TransformToStorage(context.Background(), plain, value.DefaultContext{})
	if err == nil {
		l.split.Store(unsafe.SliceData(parts.Data), plain)
	}
	return parts, err
}

// Join implements records.Layout.
func (l *layout) Join(record *agentv1.Record, from records.Source, into runtime.Object) error {
	if plain, ok := l.split.LoadAndDelete(unsafe.SliceData(record.GetData())); ok {
		return l.Whole.Join(&agentv1.Record{Data: plain.([]byte)}, from, into)
	}
	t := *l.transformer.Load()
	data, _, err := t.TransformFromStorage(context.Background(), record.GetData(), value.DefaultContext(record.GetKey()))
	if err != nil {
		return err
	}
	return l.Whole.Join(&agentv1.Record{Data: data}, from, into)
}

// codec can be made to fail.
type codec struct {
	runtime.Codec
	failing atomic.Bool
}

func (c *codec) Decode(data []byte, defaults *schema.GroupVersionKind, into runtime.Object) (runtime.Object, *schema.GroupVersionKind, error) {
	if c.failing.Load() {
		return nil, nil, fmt.Errorf("the codec was made to fail")
	}
	return c.Codec.Decode(data, defaults, into)
}

// transformer can be made to fail.
type transformer struct {
	value.Transformer
	failing atomic.Bool
}

func (t *transformer) TransformFromStorage(ctx context.Context, data []byte, dataCtx value.Context) ([]byte, bool, error) {
	if t.failing.Load() {
		return nil, false, fmt.Errorf("the transformer was made to fail")
	}
	return t.Transformer.TransformFromStorage(ctx, data, dataCtx)
}
