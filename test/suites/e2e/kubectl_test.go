// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"j5t.io/hsm/test/framework/await"
)

// db is a manifest of an HSMSecret with one value.
func db(name, value string) string {
	return fmt.Sprintf(`
apiVersion: hsm.j5t.io/v1alpha1
kind: HSMSecret
metadata:
  name: %s
  labels:
    app: %s
data:
  password: %s
`, name, name, base64.StdEncoding.EncodeToString([]byte(value)))
}

const valuePath = `jsonpath={.data.password}`

func (u user) value(name string) string {
	u.Helper()
	value, err := base64.StdEncoding.DecodeString(u.run("get", "hsmsecret", name, "-o", valuePath))
	if err != nil {
		u.Fatal(err)
	}
	return string(value)
}

func (u user) resourceVersion(name string) string {
	u.Helper()
	return u.run("get", "hsmsecret", name, "-o", "jsonpath={.metadata.resourceVersion}")
}

func (u user) expect(what, got, want string) {
	u.Helper()
	if got != want {
		u.Errorf("%s: got %q, want %q", what, got, want)
	}
}

// verb is a thing that people do with kubectl on HSMSecrets.
type verb struct {
	name string
	test func(user)
}

var verbsThatRead = []verb{
	{"api-resources", func(u user) {
		out := u.run("api-resources", "--api-group=hsm.j5t.io")
		contains(u.T, out, "hsmsecrets", "hsmsec", "hsmdevices", "hsmdev", "hsmpools", "hsmpool", "HSMSecret")
	}},
	{"explain", func(u user) {
		contains(u.T, u.run("explain", "hsmsecret.spec.hsmPath"), "FIELD: hsmPath <string>", "address of the secret on the token", "secrets/<metadata.namespace>/<metadata.name>")
	}},
	{"get", func(u user) {
		u.apply(db("db", "one"))
		out := u.run("get", "hsmsecret")
		contains(u.T, out, "NAME", "SECRET", "SYNC STATUS", "LAST SYNC", "AGE", "db")
		contains(u.T, u.run("get", "hsmsec", "db", "-o", "wide"), "TYPE", "PATH", "VERSION", "KEYS", "Opaque", "secrets/"+u.namespace+"/db")
	}},
	{"get -o yaml", func(u user) {
		u.apply(db("db", "one"))
		contains(u.T, u.run("get", "hsmsecret", "db", "-o", "yaml"), "kind: HSMSecret", "password: b25l", "hsmPath: secrets/"+u.namespace+"/db", "autoSync: true")
	}},
	{"get -w", testWatch},
	{"get -l", func(u user) {
		u.apply(db("one", "1") + "---" + db("two", "2"))
		u.expect("selected", u.run("get", "hsmsecret", "-l", "app=two", "-o", "name"), "hsmsecret.hsm.j5t.io/two\n")
	}},
	{"get --field-selector", func(u user) {
		u.apply(db("one", "1") + "---" + db("two", "2"))
		u.expect("selected", u.run("get", "hsmsecret", "--field-selector=metadata.name=one", "-o", "name"), "hsmsecret.hsm.j5t.io/one\n")
	}},
	{"get --chunk-size", func(u user) {
		for _, name := range []string{"a", "b", "c"} {
			u.apply(db(name, name))
		}
		u.expect("names", u.run("get", "hsmsecret", "--chunk-size=1", "-o", "jsonpath={.items[*].metadata.name}"), "a b c")
	}},
}

var verbsThatChange = []verb{
	{"apply", func(u user) {
		contains(u.T, u.apply(db("db", "one")), "created")
		before := u.resourceVersion("db")
		u.apply(db("db", "one"))
		u.expect("resourceVersion after applying the same", u.resourceVersion("db"), before)
		u.apply(db("db", "two"))
		u.expect("value", u.value("db"), "two")
		u.apply(strings.Replace(db("db", "two"), "password:", "passphrase:", 1))
		u.expect("keys after one was renamed", u.run("get", "hsmsecret", "db", "-o", "jsonpath={.data}"), `{"passphrase":"dHdv"}`)
		if annotations := u.run("get", "hsmsecret", "db", "-o", "jsonpath={.metadata.annotations}"); strings.Contains(annotations, "dHdv") {
			u.Errorf("a value is in the annotations: %s", annotations)
		}
	}},
	{"apply --server-side", func(u user) {
		u.apply(db("db", "one"), "--server-side")
		before := u.resourceVersion("db")
		u.apply(db("db", "one"), "--server-side")
		u.expect("resourceVersion after applying the same", u.resourceVersion("db"), before)
		contains(u.T, u.with(db("db", "two")).fail("apply", "--server-side", "--field-manager=other", "-f", "-"), "conflict")
		u.apply(db("db", "two"), "--server-side", "--field-manager=other", "--force-conflicts")
		u.expect("value", u.value("db"), "two")
	}},
	{"diff", func(u user) {
		u.apply(db("db", "one"), "--server-side")
		u.with(db("db", "one")).run("diff", "--server-side", "-f", "-")
		stdout, _, err := u.with(db("db", "two")).try("diff", "--server-side", "-f", "-")
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 1 {
			u.Errorf("diff of a change should exit with 1: %v", err)
		}
		// kubectl diff masks the values of core Secrets only.
		contains(u.T, stdout, "-  password:", "+  password:")
		u.expect("value", u.value("db"), "one")
	}},
	{"edit", func(u user) {
		u.apply(db("db", "one"), "--server-side")
		contains(u.T, u.env("EDITOR=sed -i s/b25l/dHdv/").run("edit", "hsmsecret", "db"), "edited")
		u.expect("value", u.value("db"), "two")
	}},
	{"patch --type=json", func(u user) {
		u.apply(db("db", "one"), "--server-side")
		u.run("patch", "hsmsecret", "db", "--type=json", `-p=[{"op":"replace","path":"/data/password","value":"dHdv"}]`)
		u.expect("value", u.value("db"), "two")
	}},
	{"patch --type=merge", func(u user) {
		u.apply(db("db", "one"), "--server-side")
		u.run("patch", "hsmsecret", "db", "--type=merge", `-p={"stringData":{"password":"two"},"spec":{"autoSync":false}}`)
		u.expect("value", u.value("db"), "two")
		u.expect("stringData", u.run("get", "hsmsecret", "db", "-o", "jsonpath={.stringData}"), "")
		u.expect("autoSync", u.run("get", "hsmsecret", "db", "-o", "jsonpath={.spec.autoSync}"), "false")
	}},
	{"replace", func(u user) {
		u.apply(db("db", "one"), "--server-side")
		u.with(db("db", "two")).run("replace", "-f", "-")
		u.expect("value", u.value("db"), "two")
	}},
	{"label", func(u user) {
		u.apply(db("db", "one"), "--server-side")
		u.run("label", "hsmsecret", "db", "team=blue")
		u.expect("label", u.run("get", "hsmsecret", "-l", "team=blue", "-o", "name"), "hsmsecret.hsm.j5t.io/db\n")
		u.expect("value", u.value("db"), "one")
	}},
	{"annotate", func(u user) {
		u.apply(db("db", "one"), "--server-side")
		u.run("annotate", "hsmsecret", "db", "note=ünïcode")
		u.expect("annotation", u.run("get", "hsmsecret", "db", "-o", "jsonpath={.metadata.annotations.note}"), "ünïcode")
	}},
}

var otherVerbs = []verb{
	{"create --dry-run=server", func(u user) {
		contains(u.T, u.with(db("db", "one")).run("create", "--dry-run=server", "-o", "yaml", "-f", "-"), "uid:", "hsmPath: secrets/"+u.namespace+"/db")
		contains(u.T, u.fail("get", "hsmsecret", "db"), "NotFound")
	}},
	{"describe", func(u user) {
		u.apply(db("db", "one"))
		contains(u.T, u.run("describe", "hsmsecret", "db"), "Name:", "db")
	}},
	{"auth can-i", func(u user) {
		u.expect("answer", u.run("auth", "can-i", "get", "hsmsecrets/db"), "yes\n")
		u.kubectl = hsm.Kubectl(newUser(u.T, "can-i"))
		u.expect("answer", strings.TrimSpace(strings.SplitN(u.out("auth", "can-i", "get", "hsmsecrets"), "\n", 2)[0]), "no")
	}},
	{"wait --for=delete", func(u user) {
		u.apply(db("db", "one"))
		done := make(chan error, 1)
		go func() {
			_, _, err := u.try("wait", "--for=delete", "hsmsecret/db", "--timeout=8m")
			done <- err
		}()
		u.run("delete", "hsmsecret", "db", "--wait=false")
		if err := <-done; err != nil {
			u.Error(err)
		}
	}},
	{"wait --for=jsonpath", func(u user) {
		u.apply(db("db", "one"))
		u.run("wait", "--for=jsonpath={.spec.secretType}=Opaque", "hsmsecret/db", "--timeout=8m")
	}},
	{"delete", func(u user) {
		u.apply(db("db", "one"))
		u.run("delete", "hsmsecret", "db")
		contains(u.T, u.fail("get", "hsmsecret", "db"), `hsmsecrets.hsm.j5t.io "db" not found`)
	}},
	{"delete --all", func(u user) {
		u.apply(db("one", "1") + "---" + db("two", "2"))
		u.run("delete", "hsmsecret", "--all")
		u.expect("what is left", u.run("get", "hsmsecret", "-o", "name"), "")
	}},
	{"delete namespace", func(u user) {
		u.apply(db("db", "one"))
		u.run("delete", "namespace", u.namespace, "--timeout=8m")
	}},
}

// TestKubectl runs each thing that people do with kubectl on HSMSecrets.
func TestKubectl(t *testing.T) {
	verbs := slices.Concat(verbsThatRead, verbsThatChange, otherVerbs)
	for _, verb := range verbs {
		t.Run(strings.NewReplacer(" ", "-", "=", "-").Replace(verb.name), func(t *testing.T) {
			t.Parallel()
			verb.test(admin(t))
		})
	}
	t.Cleanup(func() {
		if !t.Failed() {
			fmt.Printf("figure: kubectl-verbs-tested %d\n", len(verbs))
		}
	})
}

// out is what kubectl printed, whatever its exit code.
func (u user) out(args ...string) string {
	stdout, _, _ := u.try(args...)
	return stdout
}

// testWatch starts a watch and sees each change come, in order.
func testWatch(u user) {
	u.apply(db("db", "one"), "--server-side")
	ctx, cancel := context.WithTimeout(u.Context(), await.Limit(time.Minute))
	defer cancel()
	cmd := exec.CommandContext(ctx, u.kubectl.Path, "--namespace="+u.namespace, "get", "hsmsecret", "--watch", "--output-watch-events",
		"-o", `jsonpath={.type} {.object.metadata.name} {.object.data.password}{"\n"}`)
	cmd.Env = append(cmd.Environ(), u.kubectl.Env...)
	var seen output
	cmd.Stdout = &seen
	if err := cmd.Start(); err != nil {
		u.Fatal(err)
	}
	defer func() {
		cancel()
		_ = cmd.Wait()
	}()
	wait := func(want string) {
		u.Helper()
		await.NoError(u.T, 20*time.Second, func(context.Context) error {
			if got := seen.String(); got != want {
				return fmt.Errorf("seen %q, want %q", got, want)
			}
			return nil
		})
	}
	want := "ADDED db b25l\n"
	wait(want)
	u.apply(db("db", "two"), "--server-side")
	want += "MODIFIED db dHdv\n"
	wait(want)
	u.apply(db("other", "one"), "--server-side")
	want += "ADDED other b25l\n"
	wait(want)
	u.run("delete", "hsmsecret", "db")
	wait(want + "DELETED db dHdv\n")
}

// output can be written and read at once.
type output struct {
	mu sync.Mutex
	b  strings.Builder
}

var _ io.Writer = &output{}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}
