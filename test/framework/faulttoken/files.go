// SPDX-License-Identifier: Apache-2.0

package faulttoken

// file is a data object in flash.
type file struct {
	label, application string
	value              []byte
	described          bool // else no process sees it
	broken             bool // the value is gone

	atValue, atDescription *record // where they lie; nil is nowhere
}

// erase removes a file, whatever is left of it.
func (t *Token) erase(number int) {
	if f := t.files[number]; f != nil {
		t.flash.free(f.atValue)
		t.flash.free(f.atDescription)
		t.files[number] = nil
	}
}

func (f *file) descriptionBytes() int { return descriptionBytes + len(f.label) + len(f.application) }

// writeValue writes the value of a new object chunk by chunk. It reports whether that
// could be done; what it leaves otherwise is an orphan.
func (t *Token) writeValue(number int, f *file) bool {
	p := t.profile
	if old := t.files[number]; old != nil { // An orphan, whose place it takes.
		f.atValue = old.atValue
		t.flash.free(old.atDescription)
	}
	t.files[number] = nil
	for at := 0; ; {
		next := min(len(f.value), at+t.chunk())
		if next > p.MaxBytes || p.Files > 0 && f.atValue == nil && t.fileCount() >= p.Files {
			f.value = f.value[:at]
			if at > 0 {
				t.files[number] = f
			}
			return false
		}
		f.atValue = t.flash.put(f.atValue, next)
		t.flush()
		if f.atValue == nil {
			return false
		}
		if at = next; at == len(f.value) {
			t.files[number] = f
			return true
		}
	}
}

// describe writes the description that makes an object visible.
func (t *Token) describe(f *file) bool {
	p := t.profile
	if p.Files > 0 && t.fileCount() >= p.Files {
		return false
	}
	f.atDescription = t.flash.put(nil, f.descriptionBytes())
	t.flush()
	f.described = f.atDescription != nil && (p.LongNames || len(f.label) < 250 && len(f.application) < 250)
	return f.atDescription != nil
}

// removeValue is the first step of a destroy, and removeRest the second.
func (t *Token) removeValue(f *file) {
	t.flash.free(f.atValue)
	t.flush()
	f.broken = true
}

func (t *Token) removeRest(number int, f *file) {
	t.flash.free(f.atDescription)
	t.flush()
	t.files[number] = nil
}

// free is the lowest file number that no description holds.
func (t *Token) free() int {
	for i, f := range t.files {
		if f == nil || t.profile.Orphans && !f.described {
			return i
		}
	}
	t.files = append(t.files, nil)
	return len(t.files) - 1
}

func (t *Token) used() (objects, total int) {
	for _, f := range t.files {
		if f != nil && f.described {
			objects++
			total += len(f.value)
		}
	}
	return objects, total
}

// fileCount counts the files of objects and key pairs.
func (t *Token) fileCount() (files int) {
	for _, f := range t.files {
		if f != nil && f.atValue != nil && !f.broken {
			files++
		}
		if f != nil && f.atDescription != nil {
			files++
		}
	}
	return files + len(keyPairFiles)*len(t.pairs)
}

// visible is how many data objects a fresh process sees.
func (t *Token) visible() int {
	if !t.profile.KeysCount {
		return t.profile.Visible
	}
	return t.profile.Visible - 2*len(t.pairs) - t.certificates
}
