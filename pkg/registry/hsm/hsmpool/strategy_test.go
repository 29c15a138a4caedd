// SPDX-License-Identifier: Apache-2.0

package hsmpool

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"j5t.io/hsm/pkg/apis/hsm"
	"j5t.io/hsm/pkg/apis/hsm/install"
)

func newTestStrategy() strategy {
	scheme := runtime.NewScheme()
	install.Install(scheme)
	return newStrategy(scheme)
}

func request(subresource string) context.Context {
	ctx := genericapirequest.WithNamespace(context.Background(), "hsm-system")
	return genericapirequest.WithRequestInfo(ctx, &genericapirequest.RequestInfo{
		APIGroup: "hsm.j5t.io", APIVersion: "v1alpha1", Resource: "hsmpools", Subresource: subresource,
	})
}

func stored(t *testing.T) *hsm.HSMPool {
	t.Helper()
	pool := &hsm.HSMPool{
		ObjectMeta: metav1.ObjectMeta{Name: "pico", Namespace: "hsm-system", Generation: 9},
		Spec:       hsm.HSMPoolSpec{HSMDeviceRefs: []string{"pico"}, GracePeriod: &metav1.Duration{Duration: time.Minute}},
		Status:     hsm.HSMPoolStatus{Phase: hsm.PoolPhaseReady},
	}
	rest.FillObjectMetaSystemFields(pool)
	if err := rest.BeforeCreate(newTestStrategy(), request(""), pool); err != nil {
		t.Fatal(err)
	}
	pool.ResourceVersion = "7"
	return pool
}

func TestCreate(t *testing.T) {
	t.Parallel()
	pool := stored(t)
	if pool.Generation != 1 {
		t.Errorf("generation is %d, want 1", pool.Generation)
	}
	if !equality.Semantic.DeepEqual(pool.Status, hsm.HSMPoolStatus{}) {
		t.Errorf("the client's status is taken: %+v", pool.Status)
	}
}

func TestUpdate(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change     func(*hsm.HSMPool)
		generation int64
	}{
		"label":  {func(p *hsm.HSMPool) { p.Labels = map[string]string{"a": "b"} }, 1},
		"status": {func(p *hsm.HSMPool) { p.Status.Phase = hsm.PoolPhaseError }, 1},
		"spec":   {func(p *hsm.HSMPool) { p.Spec.HSMDeviceRefs = []string{"pico", "spare"} }, 2},
	} {
		old := stored(t)
		pool := old.DeepCopy()
		test.change(pool)
		if err := rest.BeforeUpdate(newTestStrategy(), request(""), pool, old); err != nil {
			t.Fatal(err)
		}
		if pool.Generation != test.generation {
			t.Errorf("%s: generation is %d, want %d", name, pool.Generation, test.generation)
		}
		if pool.Status.Phase != old.Status.Phase {
			t.Errorf("%s: the client's status is taken: %+v", name, pool.Status)
		}
	}
	old := stored(t)
	pool := old.DeepCopy()
	pool.Spec.HSMDeviceRefs = nil
	if err := rest.BeforeUpdate(newTestStrategy(), request(""), pool, old); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "spec.hsmDeviceRefs") {
		t.Errorf("error is %v, want 422 Invalid of spec.hsmDeviceRefs", err)
	}
}

func TestStatusUpdate(t *testing.T) {
	t.Parallel()
	status := statusStrategy{newTestStrategy()}
	managed := []metav1.ManagedFieldsEntry{{Manager: "controller", Operation: metav1.ManagedFieldsOperationUpdate, FieldsType: "FieldsV1"}}
	old := stored(t)
	pool := old.DeepCopy()
	pool.Labels = map[string]string{"a": "b"}
	pool.Spec.HSMDeviceRefs = []string{"other"}
	pool.Status.Phase = hsm.PoolPhaseReady
	pool.ManagedFields = managed
	if err := rest.BeforeUpdate(status, request("status"), pool, old); err != nil {
		t.Fatal(err)
	}
	want := old.DeepCopy()
	want.Status.Phase = hsm.PoolPhaseReady
	want.ManagedFields = managed
	if !equality.Semantic.DeepEqual(pool, want) {
		t.Errorf("the object is %+v, want %+v", pool, want)
	}

	pool.Status.Phase = "Fine"
	if err := rest.BeforeUpdate(status, request("status"), pool, old); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "status.phase") {
		t.Errorf("error is %v, want 422 Invalid of status.phase", err)
	}
}

func TestResetFields(t *testing.T) {
	t.Parallel()
	version := fieldpath.APIVersion("hsm.j5t.io/v1alpha1")
	if main := newTestStrategy().GetResetFields()[version]; !main.Has(fieldpath.MakePathOrDie("status")) || main.Has(fieldpath.MakePathOrDie("spec")) {
		t.Errorf("a write of the resource resets %s", main)
	}
	if status := (statusStrategy{}).GetResetFields()[version]; status.Has(fieldpath.MakePathOrDie("status")) || !status.Has(fieldpath.MakePathOrDie("spec")) {
		t.Errorf("a write of the status resets %s", status)
	}
}

func TestTable(t *testing.T) {
	t.Parallel()
	pool := stored(t)
	pool.CreationTimestamp = metav1.NewTime(time.Now().Add(-3 * time.Hour))
	ready := pool.DeepCopy()
	ready.Status = hsm.HSMPoolStatus{
		Phase: hsm.PoolPhasePartial, TotalDevices: 2, AvailableDevices: 1, ExpectedPods: 3,
		ReportingPods:       []hsm.ReportingPod{{PodName: "discovery-1"}},
		LastAggregationTime: new(metav1.NewTime(time.Now().Add(-5 * time.Minute))),
		Conditions: []metav1.Condition{
			{Type: "Ready", Status: metav1.ConditionTrue}, {Type: "FirmwareKnownBad", Status: metav1.ConditionTrue}, {Type: "NeedsRelayout", Status: metav1.ConditionTrue}, {Type: "ShortAPDUs", Status: metav1.ConditionTrue},
		},
	}
	pool.Status.Conditions = []metav1.Condition{{Type: "FirmwareKnownBad", Status: metav1.ConditionFalse}, {Type: "NeedsRelayout", Status: metav1.ConditionUnknown}}
	for want, pool := range map[string]*hsm.HSMPool{
		"[pico 0 0 0/0 <none> <none> <none> 3h]":                                 pool,
		"[pico 2 1 1/3 Partial NeedsRelayout,FirmwareKnownBad,ShortAPDUs 5m 3h]": ready,
	} {
		table, err := tableConvertor.ConvertToTable(t.Context(), pool, &metav1.TableOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(table.Rows[0].Cells); got != want {
			t.Errorf("row is %s, want %s", got, want)
		}
		var columns []string
		for _, column := range table.ColumnDefinitions {
			columns = append(columns, column.Name)
			if column.Description == "" {
				t.Errorf("column %s has no description", column.Name)
			}
		}
		if want := []string{"Name", "Total", "Available", "Reporting", "Phase", "Warnings", "Last Aggregation", "Age"}; !slices.Equal(columns, want) {
			t.Errorf("columns are %q, want %q", columns, want)
		}
	}
}
