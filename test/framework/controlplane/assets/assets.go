// SPDX-License-Identifier: Apache-2.0

// Package assets gives the paths of the binaries that tests and the demo run: those of a Kubernetes
// control plane, found, downloaded or built once per machine, and our own, built from this checkout.
// It never runs them, and writes only to the user's setup-envtest store and cache folder.
package assets

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/envtest"
)

// The binaries of a control plane.
const (
	Etcd                  = "etcd"
	KubeAPIServer         = "kube-apiserver"
	KubeControllerManager = "kube-controller-manager"
	KubeScheduler         = "kube-scheduler"
	Kubectl               = "kubectl"
)

const (
	// controlPlaneModule is a module of its own, so that nothing of it weighs on ours.
	controlPlaneModule = "test/framework/controlplane/kubernetes"
	downloadTool       = "hack/tools/setup-envtest/go.mod"
	downloadTimeout    = 3 * time.Minute

	platform = runtime.GOOS + "-" + runtime.GOARCH
)

// mainPackages says where controlPlaneModule finds each binary.
var mainPackages = map[string]string{
	Etcd:                  "go.etcd.io/etcd/server/v3",
	KubeAPIServer:         "k8s.io/kubernetes/cmd/kube-apiserver",
	KubeControllerManager: "k8s.io/kubernetes/cmd/kube-controller-manager",
	KubeScheduler:         "k8s.io/kubernetes/cmd/kube-scheduler",
	Kubectl:               "k8s.io/kubernetes/cmd/kubectl",
}

// downloadable are the binaries of a setup-envtest archive.
var downloadable = []string{Etcd, KubeAPIServer, Kubectl}

// Find returns the path of each named binary of the control plane. It looks in the folder that
// KUBEBUILDER_ASSETS names, then in setup-envtest's store for the minor version that we are built
// with; what is missing is downloaded with setup-envtest or, where that cannot reach its index,
// built from Go modules into the store, which takes minutes the first time. Only one process of a
// machine does that; the others wait. Progress is told to progress.
func Find(ctx context.Context, progress io.Writer, names ...string) (map[string]string, error) {
	root, err := Checkout(ctx)
	if err != nil {
		return nil, err
	}
	store, err := openStore(ctx, root)
	if err != nil {
		return nil, err
	}
	if found, missing := store.search(names); len(missing) == 0 {
		return found, nil
	}

	unlock, err := lock(ctx, "assets")
	if err != nil {
		return nil, err
	}
	defer unlock()
	// Another process may have filled the store while this one waited.
	_, missing := store.search(names)
	if slices.ContainsFunc(missing, func(name string) bool { return slices.Contains(downloadable, name) }) {
		store.download(ctx, progress)
		_, missing = store.search(names)
	}
	if err := store.build(ctx, progress, missing); err != nil {
		return nil, err
	}
	found, missing := store.search(names)
	if len(missing) > 0 {
		return nil, fmt.Errorf("%s not found in %s after a build", strings.Join(missing, ", "), store.dir)
	}
	return found, nil
}

// store is setup-envtest's folder, with one folder VERSION-OS-ARCH a version.
type store struct {
	root    string // of our module
	dir     string
	version string // of Kubernetes, without "v"
}

func openStore(ctx context.Context, root string) (*store, error) {
	dir, err := envtest.SetupEnvtestDefaultBinaryAssetsDirectory()
	if err != nil {
		return nil, fmt.Errorf("find setup-envtest's store: %w", err)
	}
	version, err := output(ctx, filepath.Join(root, controlPlaneModule), "go", "list", "-m", "-f", "{{.Version}}", "k8s.io/kubernetes")
	if err != nil {
		return nil, fmt.Errorf("find the version of Kubernetes: %w", err)
	}
	return &store{root: root, dir: dir, version: strings.TrimPrefix(version, "v")}, nil
}

// versionOf is the version of a binary, which for etcd is not that of Kubernetes.
func (s *store) versionOf(ctx context.Context, name string) (string, error) {
	version, err := output(ctx, filepath.Join(s.root, controlPlaneModule), "go", "list", "-f", "{{.Module.Version}}", mainPackages[name])
	if err != nil {
		return "", fmt.Errorf("find the version of %s: %w", name, err)
	}
	return strings.TrimPrefix(version, "v"), nil
}

func (s *store) minor() string { return s.version[:strings.LastIndex(s.version, ".")] }

func (s *store) folders() []string {
	// The pattern is constant but for a version: it cannot be malformed.
	folders, _ := filepath.Glob(filepath.Join(s.dir, s.minor()+".*-"+platform))
	return folders
}

// home is the folder for what is built: one that has a kube-apiserver already, or a new one. A folder
// with less than setup-envtest's three binaries would mislead its other users.
func (s *store) home() string {
	for _, folder := range s.folders() {
		if _, err := exec.LookPath(filepath.Join(folder, KubeAPIServer)); err == nil {
			return folder
		}
	}
	return filepath.Join(s.dir, s.version+"-"+platform)
}

func (s *store) search(names []string) (found map[string]string, missing []string) {
	folders := s.folders()
	if given := os.Getenv("KUBEBUILDER_ASSETS"); given != "" {
		folders = slices.Insert(folders, 0, given)
	}
	found = map[string]string{}
	for _, name := range names {
		for _, folder := range folders {
			if path, err := exec.LookPath(filepath.Join(folder, name)); err == nil {
				found[name] = path
				break
			}
		}
		if found[name] == "" {
			missing = append(missing, name)
		}
	}
	return found, missing
}

// download fails without an error: what it does not bring is built.
func (s *store) download(ctx context.Context, progress io.Writer) {
	ctx, cancel := context.WithTimeout(ctx, downloadTimeout)
	defer cancel()
	fmt.Fprintf(progress, "Downloading kube-apiserver and kubectl %s, and their etcd, with setup-envtest.\n", s.minor())
	if _, err := output(ctx, s.root, "go", "tool", "-modfile="+downloadTool, "setup-envtest", "use", s.minor()+".x", "--print=path"); err != nil {
		fmt.Fprintf(progress, "The download is not possible from here (%v). What is missing is built from source.\n", err)
	}
}

// build shows the store whole folders only: an interrupted build leaves nothing there.
func (s *store) build(ctx context.Context, progress io.Writer, names []string) error {
	partial := filepath.Join(filepath.Dir(s.dir), "partial")
	if err := os.MkdirAll(partial, 0o755); err != nil {
		return fmt.Errorf("make folder for builds: %w", err)
	}
	defer os.RemoveAll(partial)
	major, minor, _ := strings.Cut(s.minor(), ".")
	// kubectl and kube-apiserver decide on version skew: a build without these says v0.0.0.
	ldflags := fmt.Sprintf("-s -w"+
		" -X k8s.io/component-base/version.gitVersion=v%[1]s"+
		" -X k8s.io/component-base/version.gitMajor=%[2]s -X k8s.io/component-base/version.gitMinor=%[3]s"+
		" -X k8s.io/client-go/pkg/version.gitVersion=v%[1]s", s.version, major, minor)
	if len(names) > 0 {
		fmt.Fprintf(progress, "To be built from source, once on this machine, which takes minutes: %s.\n", strings.Join(names, ", "))
	}
	for _, name := range names {
		version, err := s.versionOf(ctx, name)
		if err != nil {
			return err
		}
		err = build(ctx, progress, goBuild{
			name:   name + " " + version,
			dir:    filepath.Join(s.root, controlPlaneModule),
			output: filepath.Join(partial, name),
			env:    []string{"CGO_ENABLED=0"},
			args:   []string{"-trimpath", "-ldflags=" + ldflags, mainPackages[name]},
		})
		if err != nil {
			return err
		}
	}
	home := s.home()
	if err := os.MkdirAll(home, 0o755); err != nil {
		return fmt.Errorf("make folder for binaries: %w", err)
	}
	for _, name := range names {
		if err := os.Rename(filepath.Join(partial, name), filepath.Join(home, name)); err != nil {
			return fmt.Errorf("keep %s: %w", name, err)
		}
	}
	return nil
}
