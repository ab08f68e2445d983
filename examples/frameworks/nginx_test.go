package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"iter"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"

	"github.com/execcast/execcast/adapters/httpsse"
	"github.com/execcast/execcast/core"
)

// nginxConf has a server for each way viewers and nginx, and nginx and we, may
// speak. Buffering stays on, as it is by default: X-Accel-Buffering turns it off
// for our streams. %[1]s is our address.
const nginxConf = `
daemon off;
master_process off;
pid nginx.pid;
error_log stderr;
events { worker_connections 64; }
http {
	access_log off;
	client_body_temp_path body;
	proxy_temp_path proxy;
	fastcgi_temp_path fastcgi;
	uwsgi_temp_path uwsgi;
	scgi_temp_path scgi;
	server {
		listen unix:default.sock;
		location / { proxy_pass http://%[1]s; } # HTTP/1.0 and Connection: close
	}
	server {
		listen unix:http1.sock;
		location / {
			proxy_pass http://%[1]s;
			proxy_http_version 1.1;
			proxy_set_header Host $http_host;
			proxy_set_header Upgrade $http_upgrade;
			proxy_set_header Connection $upgrade;
		}
	}
	map $http_upgrade $upgrade { "" ""; default upgrade; }
	server {
		listen unix:http2.sock ssl http2;
		ssl_certificate cert.pem;
		ssl_certificate_key key.pem;
		location / {
			proxy_pass http://%[1]s;
			proxy_http_version 1.1;
			proxy_set_header Host $http_host;
			proxy_set_header Connection "";
		}
	}
}
`

// nginx starts nginx in front of addr, and returns a client that reaches it by
// the socket of that name, whatever the URL's host.
func nginx(t *testing.T, addr string) func(socket string) *http.Client {
	path, err := exec.LookPath("nginx")
	if err != nil {
		t.Skip("nginx is not installed")
	}
	dir := t.TempDir()
	roots := certificate(t, dir)
	conf := filepath.Join(dir, "nginx.conf")
	require.NoError(t, os.WriteFile(conf, fmt.Appendf(nil, strings.ReplaceAll(nginxConf, "unix:", "unix:"+dir+"/"), addr), 0o600))
	cmd := exec.Command(path, "-p", dir, "-c", conf)
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	require.NoError(t, cmd.Start())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		cmd.Wait()
	}()
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-ended
		if t.Failed() {
			t.Logf("%s", output.Bytes())
		}
	})
	dial := func(ctx context.Context, socket string) (conn net.Conn, err error) {
		for ctx.Err() == nil { // nginx may not listen yet
			if conn, err = net.Dial("unix", filepath.Join(dir, socket)); err == nil {
				return conn, nil
			}
			select {
			case <-ended:
				return nil, fmt.Errorf("nginx ended: %w", err)
			case <-time.After(10 * time.Millisecond):
			}
		}
		return nil, err
	}
	return func(socket string) *http.Client {
		tr := &http.Transport{
			DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx, socket) },
			TLSClientConfig:   &tls.Config{RootCAs: roots},
			ForceAttemptHTTP2: true,
		}
		t.Cleanup(tr.CloseIdleConnections)
		return &http.Client{Transport: tr}
	}
}

// certificate writes a key and a certificate for example.com that it signs.
func certificate(t *testing.T, dir string) *x509.CertPool {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		DNSNames:     []string{"example.com"},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	for file, block := range map[string]*pem.Block{
		"cert.pem": {Type: "CERTIFICATE", Bytes: cert},
		"key.pem":  {Type: "PRIVATE KEY", Bytes: pkcs8},
	} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, file), pem.EncodeToMemory(block), 0o600))
	}
	parsed, err := x509.ParseCertificate(cert)
	require.NoError(t, err)
	pool := x509.NewCertPool()
	pool.AddCert(parsed)
	return pool
}

func TestNginx(t *testing.T) {
	for _, c := range []struct {
		socket, scheme string
		viewer         int    // major version of HTTP a viewer speaks
		upstream       string // what nginx speaks to us
	}{
		{"default.sock", "http", 1, "HTTP/1.0"},
		{"http1.sock", "http", 1, "HTTP/1.1"},
		{"http2.sock", "https", 2, "HTTP/1.1"},
	} {
		for _, framework := range []string{"mux", "fiber"} {
			t.Run(framework+"/"+c.socket, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				defer cancel()
				o, proceed := gated(t)
				s := frameworks[framework](o)
				var upstream atomic.Value
				if hs, ok := s.(*http.Server); ok {
					h := hs.Handler
					hs.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						upstream.Store(r.Proto)
						h.ServeHTTP(w, r)
					})
				}
				client := nginx(t, serve(t, s))(c.socket)
				id, err := o.start()
				require.NoError(t, err)
				url := c.scheme + "://example.com/api/executions/" + id + "/events"
				var version int
				var lost error
				watch := func(lastEventID string) (next func(eventType string) httpsse.Event, stop func()) {
					pull, stop := iter.Pull2(httpsse.Watch(ctx, url, &httpsse.WatchOptions{
						Client:       client,
						LastEventID:  lastEventID,
						Connected:    func(res *http.Response) { version = res.ProtoMajor },
						Disconnected: func(err error, _ time.Duration) { lost = err; cancel() },
					}))
					t.Cleanup(stop)
					return func(eventType string) httpsse.Event {
						t.Helper()
						e, err, ok := pull()
						require.NoError(t, err, "connection lost: %v", lost)
						require.Equal(t, eventType, e.Type)
						require.Equal(t, eventType != "", ok)
						return e
					}, stop
				}

				// What is here does not wait for what is not yet.
				next, stop := watch("")
				next("execution-start")
				last := next("task-start")
				require.Equal(t, c.viewer, version)
				proceed <- struct{}{}
				next("task-complete")
				next("task-start")
				stop()

				resumed, _ := watch(last.LastEventID)
				resumed("task-complete")
				resumed("task-start")
				close(proceed)
				for _, eventType := range []string{"task-complete", "task-start", "task-complete", "execution-complete", core.TypeEnd} {
					last = resumed(eventType)
				}
				resumed("") // the end

				// Also as bytes the stream is whole.
				res, err := client.Get(url)
				require.NoError(t, err)
				defer res.Body.Close()
				body, err := io.ReadAll(res.Body)
				require.NoError(t, err)
				require.True(t, bytes.HasSuffix(body, []byte("event: "+core.TypeEnd+"\ndata: {}\n\n")), "%s", body)
				if framework == "mux" {
					require.Equal(t, c.upstream, upstream.Load())
				}

				res, err = client.Get(url + "?lastEventId=" + last.LastEventID)
				require.NoError(t, err)
				res.Body.Close()
				require.Equal(t, http.StatusNoContent, res.StatusCode)
			})
		}
	}

	t.Run("websocket", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		o, proceed := gated(t)
		client := nginx(t, serve(t, newWebSocket(o)))("http1.sock")
		id, err := o.start()
		require.NoError(t, err)
		dialer := websocket.Dialer{NetDialContext: client.Transport.(*http.Transport).DialContext}
		ws, _, err := dialer.DialContext(ctx, "ws://example.com/api/executions/"+id+"/events",
			http.Header{"Origin": {"http://example.com"}}) // as the pages of the host nginx serves
		require.NoError(t, err)
		defer ws.Close()
		next := func() (event string) {
			var m struct{ ID, Event string }
			ws.SetReadDeadline(time.Now().Add(20 * time.Second))
			require.NoError(t, ws.ReadJSON(&m))
			return m.Event
		}
		require.Equal(t, "execution-start", next())
		require.Equal(t, "task-start", next())
		close(proceed)
		for next() != core.TypeEnd {
		}
		_, _, err = ws.ReadMessage()
		require.True(t, websocket.IsCloseError(err, websocket.CloseNormalClosure), "%v", err)
	})
}
