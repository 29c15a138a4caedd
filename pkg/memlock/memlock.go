// SPDX-License-Identifier: Apache-2.0

// Package memlock keeps memory that holds keys from being written to swap. It
// never copies what it locks, and never unlocks it: keys live as long as their
// process, or its pages are used again for other ones.
package memlock

import (
	"fmt"
	"reflect"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Lock locks the pages of all that can be reached from a value, which must be
// small: pointers are followed, also those of interfaces, slices, maps and
// unexported fields. It relies on Go's collector never moving what lies on the
// heap. An error means that the kernel did not allow all of it (mlock(2):
// RLIMIT_MEMLOCK, CAP_IPC_LOCK); what could be locked is.
func Lock(value any) error {
	l := locker{seen: map[unsafe.Pointer]bool{}}
	l.walk(reflect.ValueOf(value))
	if len(l.errs) > 0 {
		return fmt.Errorf("lock keys in memory: %w", l.errs[0])
	}
	return nil
}

type locker struct {
	seen map[unsafe.Pointer]bool
	errs []error
}

func (l *locker) walk(v reflect.Value) {
	switch v.Kind() {
	case reflect.Interface:
		l.walk(v.Elem())
	case reflect.Pointer:
		if !v.IsNil() && l.lock(v.UnsafePointer(), v.Type().Elem().Size()) {
			l.walk(v.Elem())
		}
	case reflect.Slice:
		if v.Len() > 0 && l.lock(v.UnsafePointer(), uintptr(v.Len())*v.Type().Elem().Size()) {
			l.walkAll(v)
		}
	case reflect.Array:
		l.walkAll(v)
	case reflect.Struct:
		for i := range v.NumField() {
			l.walk(v.Field(i))
		}
	case reflect.Map:
		for i := v.MapRange(); i.Next(); {
			l.walk(i.Value())
		}
	}
}

func (l *locker) walkAll(v reflect.Value) {
	for i := range v.Len() {
		l.walk(v.Index(i))
	}
}

// lock is false for what was locked before, or has no size.
func (l *locker) lock(p unsafe.Pointer, size uintptr) bool {
	if size == 0 || l.seen[p] {
		return false
	}
	l.seen[p] = true
	if err := unix.Mlock(unsafe.Slice((*byte)(p), size)); err != nil {
		l.errs = append(l.errs, err)
	}
	return true
}
