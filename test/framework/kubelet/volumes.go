// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

const (
	// Where a Secret's files lie, as kubelet does it: each is a link to ..data/NAME, and
	// ..data is a link to the folder of one version, which is replaced as one.
	versionLink  = "..data"
	defaultMode  = 0o644
	tokenSeconds = int64(4 * time.Hour / time.Second)
)

// mount makes the volumes, and brings them up to date.
func (p *pod) mount(ctx context.Context, object *corev1.Pod) (paths, error) {
	result := paths{volumes: map[string]string{}}
	for _, volume := range object.Spec.Volumes {
		path, err := p.volume(volume)
		if err != nil {
			return paths{}, fmt.Errorf("volume %s: %w", volume.Name, err)
		}
		result.volumes[volume.Name] = path
	}
	if mounts := object.Spec.AutomountServiceAccountToken; mounts == nil || *mounts {
		var err error
		if result.kubeconfig, err = p.serviceAccount(ctx, object); err != nil {
			return paths{}, fmt.Errorf("ServiceAccount %s: %w", object.Spec.ServiceAccountName, err)
		}
	}
	return result, nil
}

func (p *pod) volume(volume corev1.Volume) (path string, err error) {
	path = filepath.Join(p.dir, "volumes", volume.Name)
	switch {
	case volume.Secret != nil:
		return path, p.secret(path, volume.Secret)
	case volume.EmptyDir != nil:
		return path, os.MkdirAll(path, 0o777)
	case volume.HostPath != nil:
		path = filepath.Join(p.kubelet.Root(), volume.HostPath.Path)
		return path, hostPath(path, volume.HostPath.Type)
	default:
		return "", errors.New("of all kinds only secret, emptyDir and hostPath can be used")
	}
}

func hostPath(path string, kind *corev1.HostPathType) error {
	if kind == nil || *kind == corev1.HostPathUnset {
		return nil
	}
	switch *kind {
	case corev1.HostPathDirectoryOrCreate:
		return os.MkdirAll(path, 0o755)
	case corev1.HostPathDirectory:
		info, err := os.Stat(path)
		if err == nil && !info.IsDir() {
			err = fmt.Errorf("%s is not a folder", path)
		}
		return err
	default:
		_, err := os.Stat(path)
		return err
	}
}

// secret writes the files of a Secret, if they are not there or have changed. Those of a
// Secret that is gone stay.
func (p *pod) secret(path string, source *corev1.SecretVolumeSource) error {
	secret, err := p.kubelet.secrets.Secrets(p.namespace).Get(source.SecretName)
	if err != nil {
		_, there := os.Stat(filepath.Join(path, versionLink))
		if there == nil {
			return nil
		}
		if source.Optional != nil && *source.Optional {
			return os.MkdirAll(path, 0o755)
		}
		return err
	}
	mode := os.FileMode(defaultMode)
	if source.DefaultMode != nil {
		mode = os.FileMode(*source.DefaultMode)
	}
	files := map[string][]byte{}
	modes := map[string]os.FileMode{}
	for key, value := range secret.Data {
		if len(source.Items) == 0 {
			files[key], modes[key] = value, mode
		}
	}
	for _, item := range source.Items {
		value, found := secret.Data[item.Key]
		if !found {
			return fmt.Errorf("the Secret %s has no %q", secret.Name, item.Key)
		}
		files[item.Path], modes[item.Path] = value, mode
		if item.Mode != nil {
			modes[item.Path] = os.FileMode(*item.Mode)
		}
	}
	if same(path, files) {
		return nil
	}
	return replace(path, files, modes)
}

func same(path string, files map[string][]byte) bool {
	entries, err := os.ReadDir(filepath.Join(path, versionLink))
	if err != nil || len(entries) != len(files) {
		return false
	}
	for name, content := range files {
		got, err := os.ReadFile(filepath.Join(path, name))
		if err != nil || !bytes.Equal(got, content) {
			return false
		}
	}
	return true
}

// replace writes a new version beside the old one, and makes it the one at once.
func replace(path string, files map[string][]byte, modes map[string]os.FileMode) error {
	version := ".." + strconv.FormatInt(time.Now().UnixNano(), 10)
	if err := os.MkdirAll(filepath.Join(path, version), 0o755); err != nil {
		return err
	}
	for name, content := range files {
		file := filepath.Join(path, version, name)
		if err := os.WriteFile(file, content, 0o600); err != nil {
			return err
		}
		// The umask has no say.
		if err := os.Chmod(file, modes[name]); err != nil {
			return err
		}
	}
	link := filepath.Join(path, versionLink)
	old, _ := os.Readlink(link) // The first version replaces none.
	if err := os.Symlink(version, link+"_tmp"); err != nil {
		return err
	}
	if err := os.Rename(link+"_tmp", link); err != nil {
		return err
	}
	for name := range files {
		err := os.Symlink(filepath.Join(versionLink, name), filepath.Join(path, name))
		if err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	if old == "" {
		return nil
	}
	return os.RemoveAll(filepath.Join(path, old))
}

// serviceAccount writes a kubeconfig with a token that is bound to the pod.
func (p *pod) serviceAccount(ctx context.Context, object *corev1.Pod) (string, error) {
	path := filepath.Join(p.dir, "kubeconfig")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	name := object.Spec.ServiceAccountName
	if name == "" {
		name = "default"
	}
	seconds := tokenSeconds
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		ExpirationSeconds: &seconds,
		BoundObjectRef:    &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: object.Name, UID: object.UID},
	}}
	request, err := p.kubelet.client.CoreV1().ServiceAccounts(p.namespace).CreateToken(ctx, name, request, metav1.CreateOptions{})
	if err != nil {
		return "", err
	}
	config := p.kubelet.Config
	return path, clientcmd.WriteToFile(clientcmdapi.Config{
		Clusters: map[string]*clientcmdapi.Cluster{"local": {
			Server: config.Host, CertificateAuthority: config.CAFile, CertificateAuthorityData: config.CAData,
		}},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{name: {Token: request.Status.Token}},
		Contexts:       map[string]*clientcmdapi.Context{"local": {Cluster: "local", AuthInfo: name, Namespace: p.namespace}},
		CurrentContext: "local",
	}, path)
}
