// SPDX-License-Identifier: Apache-2.0

package report

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/metadata"
	"k8s.io/klog/v2"
)

// fieldManager owns the annotation in managedFields.
const fieldManager = "hsm-discovery"

// requestTimeout bounds one request to kube-apiserver.
const requestTimeout = 10 * time.Second

// Writer keeps the report on a pod. It is not safe for use by several goroutines.
type Writer struct {
	pods metadata.ResourceInterface
	pod  string
	// uid is that of the pod that was opened. A later pod of its name is another one.
	uid types.UID
	// last is the report that the pod is known to hold.
	last []Entry
}

// Open returns a writer for a pod that exists, with the report that it holds. A report
// that cannot be read counts as none.
func Open(ctx context.Context, client metadata.Interface, namespace, pod string) (*Writer, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	w := &Writer{pods: client.Resource(corev1.SchemeGroupVersion.WithResource("pods")).Namespace(namespace), pod: pod}
	object, err := w.pods.Get(ctx, pod, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("get the pod that reports, %s/%s: %w", namespace, pod, err)
	}
	w.uid = object.UID
	if value, found := object.Annotations[Annotation]; found {
		if w.last, err = Decode(value); err != nil {
			klog.FromContext(ctx).Error(err, "Ignoring the report that the pod holds")
		}
	}
	return w, nil
}

// Last returns the report that the pod is known to hold. It must not be changed.
func (w *Writer) Last() []Entry { return w.last }

// Fresh reports whether the pod's report says the same as entries, and will still be younger
// than maxAge at the deadline.
func (w *Writer) Fresh(entries []Entry, deadline time.Time, maxAge time.Duration) bool {
	if w.last == nil || !Same(w.last, entries) {
		return false
	}
	for _, entry := range w.last {
		if deadline.Sub(entry.LastReportTime.Time) > maxAge {
			return false
		}
	}
	return true
}

// Write puts a report on the pod, by a patch of nothing else. It fails for another pod
// of the same name.
func (w *Writer) Write(ctx context.Context, entries []Entry) error {
	value, err := Encode(entries)
	if err != nil {
		return err
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"uid":         w.uid,
		"annotations": map[string]string{Annotation: value},
	}})
	if err != nil {
		return fmt.Errorf("encode the report: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	if _, err := w.pods.Patch(ctx, w.pod, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: fieldManager}); err != nil {
		return fmt.Errorf("report on the pod %s: %w", w.pod, err)
	}
	w.last = entries
	return nil
}
