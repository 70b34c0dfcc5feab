#!/usr/bin/env bash
# curl as a backend: feedback with its verdict, long bodies, and refusals. The receiver is a plain
# TCP connection of this shell.
#
#     PLUGSOCKET_URL=http://127.0.0.1:8095 bash tests/clients/curl_post.sh
#
# Exit code 77: curl is not installed.
set -euo pipefail

command -v curl >/dev/null || { echo "curl is missing"; exit 77; }
url="${PLUGSOCKET_URL:-http://127.0.0.1:8095}"
url="${url%/}"
authority="${url#http://}"

same() {
    [ "$1" = "$2" ] || { echo "FAILED: expected $1, got $2"; exit 1; }
}
post() {
    curl --silent --show-error --max-time 10 "$@"
}

gone="00000000-0000-4000-8000-000000000000.$(printf '%064d' 0)"
same '{"opcode":"next","fyi":"gone"}' "$(post -d '{"opcode":"feedback","uuid":"'"$gone"'","message":"50 %"}' "$url/php")"
echo "ok the verdict for an unknown uuid"

exec 3<>"/dev/tcp/${authority%:*}/${authority##*:}"
# In one write, because an Ident in a later write may be ignored. Bash would write line by line.
printf 'backend\nGET /php HTTP/1.1\nIdent: curl-test\n\n' | cat >&3
read -r -t 10 ready <&3
[[ $ready == '{"opcode":"ready",'* ]] || { echo "FAILED: expected ready, got $ready"; exit 1; }
packet='{"opcode":"feedback","ident":"curl-test","message":"50 %"}'
same '{"opcode":"next","fyi":"delivered"}' "$(post -d "$packet" "$url/php")"
read -r -t 10 received <&3
same "$packet" "$received"
echo "ok feedback by ident"

# A body that curl sends only after a 100 response.
long="$(head -c 2000000 /dev/zero | tr '\0' x)"
answer="$(printf '{"opcode":"echo","message":"%s"}' "$long" | post -H 'Expect: 100-continue' --data-binary @- "$url/php" | wc -c)"
same "$((2000000 + 30 + 1 + 26 + 1))" "$((answer))"
echo "ok a long body with Expect: 100-continue"

same 2 "$(post -H 'Transfer-Encoding: chunked' -d '{"opcode":"echo","message":1}' "$url/php" | wc -l)"
same 2 "$(echo '{"opcode":"echo","message":1}' | post -X POST -T - "$url/php" | wc -l)"
same 2 "$(post -0 -d '{"opcode":"echo","message":1}' "$url/php" | wc -l)"
echo "ok a body in chunks, and HTTP/1.0"

# curl counts the connections that it opened for each of two requests.
format='%{http_code} %{num_connects}\n'
request=(-o /dev/null -w "$format" -d '{"opcode":"echo","message":1}' "$url/php")
same $'200 1\n200 0' "$(post "${request[@]}" --next --silent "${request[@]}")"
echo "ok two requests on one connection"

same 200 "$(post -I -o /dev/null -w '%{http_code}' "$url/plugsocket/")"
same 200 "$(post -0 -I -o /dev/null -w '%{http_code}' "$url/plugsocket/")"
echo "ok HEAD of the page"

same 404 "$(post -o /dev/null -w '%{http_code}' -d '{}' "$url/nowhere")"
same 422 "$(post -o /dev/null -w '%{http_code}' -d 'no JSON' "$url/php")"
same 405 "$(post -o /dev/null -w '%{http_code}' -X DELETE "$url/php")"
echo "ok refusals by status code"
