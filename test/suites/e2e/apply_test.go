// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// ofKind is a manifest of an HSMSecret or of a core Secret, both named db.
func ofKind(kind, fields string) string {
	version := map[string]string{"HSMSecret": "hsm.j5t.io/v1alpha1", "Secret": "v1"}[kind]
	return fmt.Sprintf("apiVersion: %s\nkind: %s\nmetadata:\n  name: db\n%s", version, kind, fields)
}

// diff is what kubectl diff prints, and whether there is a difference.
func (u user) diff(manifest string) (stdout string, differs bool) {
	u.Helper()
	stdout, _, err := u.with(manifest).try("diff", "-f", "-")
	var exit *exec.ExitError
	switch {
	case err == nil:
		return stdout, false
	case errors.As(err, &exit) && exit.ExitCode() == 1:
		return stdout, true
	}
	u.Fatal(err)
	return "", false
}

// TestApply applies one manifest after another to a core Secret and to an
// HSMSecret, whose last-applied-configuration has no values. Both must come to
// the same.
func TestApply(t *testing.T) {
	t.Parallel()
	const a, b, c = "YQ==", "Yg==", "Yw=="
	for _, test := range []struct {
		name, before, after string
		differs             bool
	}{
		{"the same", "data: {a: " + a + "}\n", "data: {a: " + a + "}\n", false},
		{"another value", "data: {a: " + a + "}\n", "data: {a: " + b + "}\n", true},
		{"a key more", "data: {a: " + a + "}\n", "data: {a: " + a + ", b: " + b + "}\n", true},
		{"a key less", "data: {a: " + a + ", b: " + b + "}\n", "data: {b: " + b + "}\n", true},
		{"a key of another name", "data: {a: " + a + "}\n", "data: {c: " + a + "}\n", true},
		{"no data any more", "data: {a: " + a + "}\n", "", true},
		{"an empty value", "data: {a: " + a + "}\n", "data: {a: \"\"}\n", true},
		{"from an empty value", "data: {a: \"\"}\n", "data: {a: " + a + "}\n", true},
		{"a null value", "data: {a: " + a + ", b: " + b + "}\n", "data: {a: " + a + ", b: null}\n", true},
		{"the same as text", "stringData: {a: a}\n", "stringData: {a: a}\n", false},
		{"another text", "stringData: {a: a}\n", "stringData: {a: b}\n", true},
		{"a text more", "stringData: {a: a}\n", "stringData: {a: a, b: b}\n", true},
		// A text that is gone is kept, as nothing tells where it went.
		{"a text less", "stringData: {a: a, b: b}\n", "stringData: {b: b}\n", false},
		{"from value to text", "data: {a: " + a + "}\n", "stringData: {a: a}\n", false},
		{"from text to value", "stringData: {a: a}\n", "data: {a: " + a + "}\n", false},
		{"text beside a value", "data: {a: " + a + ", b: " + b + "}\nstringData: {c: c}\n", "data: {a: " + c + "}\nstringData: {c: c}\n", true},
		{"a label less", "  labels: {x: \"1\", y: \"2\"}\ndata: {a: " + a + "}\n", "  labels: {y: \"2\"}\ndata: {a: " + a + "}\n", true},
	} {
		t.Run(strings.ReplaceAll(test.name, " ", "-"), func(t *testing.T) {
			t.Parallel()
			u := admin(t)
			var data [2]string
			var differed [2]bool
			for i, kind := range []string{"Secret", "HSMSecret"} {
				before, after := ofKind(kind, test.before), ofKind(kind, test.after)
				u.apply(before)
				_, differed[i] = u.diff(after)
				u.apply(after)
				if kind == "HSMSecret" {
					applied := u.resourceVersion("db")
					u.apply(after)
					u.expect("resourceVersion after applying the same", u.resourceVersion("db"), applied)
					if stdout, differs := u.diff(after); differs {
						t.Errorf("what was applied differs:\n%s", stdout)
					}
				}
				data[i] = u.run("get", kind, "db", "-o", "jsonpath={.data} {.metadata.labels}")
			}
			u.expect("what became of the HSMSecret", data[1], data[0])
			if differed[1] != test.differs || differed[0] != differed[1] {
				t.Errorf("kubectl diff finds a difference: %t in the Secret, %t in the HSMSecret, want %t", differed[0], differed[1], test.differs)
			}
		})
	}
}

// TestLastApplied lets kubectl write the annotation in every way that it has. It
// always ends without values, and is still of use.
func TestLastApplied(t *testing.T) {
	t.Parallel()
	const value = "c2VjcmV0LW9mLWFwcGx5" // secret-of-apply
	full := ofKind("HSMSecret", "data: {password: "+value+"}\n")
	text := ofKind("HSMSecret", "stringData: {password: secret-of-apply}\n")
	manifest := func(u user, content string) string {
		path := filepath.Join(u.TempDir(), "db.yaml")
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			u.Fatal(err)
		}
		return path
	}
	for _, test := range []struct {
		name  string
		write func(user)
	}{
		{"apply", func(u user) { u.apply(full) }},
		{"apply of text", func(u user) { u.apply(text) }},
		{"create --save-config", func(u user) { u.with(full).run("create", "--save-config", "-f", "-") }},
		{"replace --save-config", func(u user) {
			u.with(full).run("create", "-f", "-")
			u.with(full).run("replace", "--save-config", "-f", "-")
		}},
		{"set-last-applied", func(u user) {
			u.with(full).run("create", "-f", "-")
			u.run("apply", "set-last-applied", "--create-annotation", "-f", manifest(u, full))
		}},
		{"set-last-applied of text", func(u user) {
			u.apply(full)
			u.run("apply", "set-last-applied", "-f", manifest(u, text))
			u.apply(full)
		}},
		{"edit-last-applied", func(u user) {
			u.apply(full)
			u.env("EDITOR=sed -i s/password:.*/password:\\ "+value+"/").run("apply", "edit-last-applied", "hsmsecret", "db")
		}},
		// kubectl's server-side apply keeps the annotation up to date.
		{"apply --server-side", func(u user) {
			u.apply(full)
			u.apply(full, "--server-side")
			before := u.resourceVersion("db")
			u.apply(full, "--server-side")
			u.expect("resourceVersion after applying the same", u.resourceVersion("db"), before)
			u.apply(full)
		}},
	} {
		t.Run(strings.ReplaceAll(test.name, " ", "-"), func(t *testing.T) {
			t.Parallel()
			u := admin(t)
			test.write(u)
			for _, shown := range []string{
				u.run("apply", "view-last-applied", "hsmsecret", "db"),
				u.run("apply", "view-last-applied", "-f", manifest(u, full), "-o", "json"),
				u.run("get", "hsmsecret", "db", "-o", "jsonpath={.metadata.annotations}"),
			} {
				contains(t, shown, "password")
				for _, form := range []string{value, "secret-of-apply"} {
					if strings.Contains(shown, form) {
						t.Errorf("a value is in the annotation: %s", shown)
					}
				}
			}
			u.expect("value", u.value("db"), "secret-of-apply")
			if stdout, differs := u.diff(full); differs && !strings.Contains(test.name, "text") {
				t.Errorf("what was applied differs:\n%s", stdout)
			}
			u.apply(ofKind("HSMSecret", "data: {other: "+value+"}\n"))
			want := `{"other":"` + value + `"}`
			if strings.Contains(test.name, "of text") && !strings.HasPrefix(test.name, "set") {
				// kubectl prunes no stringData, of core Secrets neither.
				want = `{"other":"` + value + `","password":"` + value + `"}`
			}
			u.expect("data after the key was renamed", u.run("get", "hsmsecret", "db", "-o", "jsonpath={.data}"), want)
		})
	}
}

// TestTurnToServerSideApply is of who has used kubectl apply before. Without a
// change it is no conflict. With one it is, as the annotation has no old value:
// docs/access.md says so.
func TestTurnToServerSideApply(t *testing.T) {
	t.Parallel()
	u := admin(t)
	u.apply(db("db", "one"))
	contains(t, u.with(db("db", "two")).fail("apply", "--server-side", "-f", "-"), "kubectl-client-side-apply", ".data.password")
	u.apply(db("db", "one"), "--server-side")
	u.apply(db("db", "two"), "--server-side")
	u.expect("value", u.value("db"), "two")

	u.apply(db("forced", "one"))
	u.apply(db("forced", "two"), "--server-side", "--force-conflicts")
	u.expect("value", u.value("forced"), "two")
}
