#!/usr/bin/env bash
# Runs a real mail server as a relay in a mount namespace, until it is told to stop. Nothing of the
# machine's own /etc, /usr and /var is changed: they are covered. It takes mail on a port of loopback,
# hands what goes to bounce.example to one other port and everything else to a second, and gives up at
# the first try where it can. A line of input says that days have passed. Arguments: the server, the
# folder of unpacked programs, a folder for its log and for what is covered, the three ports.
set -euo pipefail
server=$1 programs=$2 folder=$3 port=$4 out=$5 back=$6
. "$(dirname "$0")/../covered.sh"
chmod 711 "$folder"

# Names are found without asking anybody.
echo "127.0.0.1 mx.$server.example $(hostname) localhost" >/etc/hosts
echo "hosts: files" >/etc/nsswitch.conf
: >/etc/resolv.conf

exim() {
    user Debian-exim
    mkdir -p /var/spool/exim4 /var/log/exim4 /etc/exim4
    chown Debian-exim:Debian-exim /var/spool/exim4 /var/log/exim4
    cat >/etc/exim4/exim4.conf <<CONF
primary_hostname = mx.exim.example
local_interfaces = 127.0.0.1
daemon_smtp_ports = $port
log_file_path = /var/log/exim4/%slog
host_lookup =
rfc1413_hosts =
tls_advertise_hosts =
acl_smtp_rcpt = rcpt
bounce_return_size_limit = 20K
begin acl
rcpt:
  accept
begin routers
full:
  driver = accept
  local_parts = own-full
  transport = full
unknown:
  driver = redirect
  local_parts = own-gone
  allow_fail
  data = :fail: Unknown user
back:
  driver = manualroute
  domains = bounce.example
  route_list = * 127.0.0.1::$back byname
  self = send
  transport = smtp
late:
  driver = manualroute
  local_parts = late
  route_list = * 127.0.0.1::1 byname
  self = send
  transport = smtp
out:
  driver = manualroute
  route_list = * 127.0.0.1::$out byname
  self = send
  transport = smtp
begin transports
smtp:
  driver = smtp
  allow_localhost
full:
  driver = appendfile
  file = /var/spool/exim4/full
  user = Debian-exim
  quota = 1
begin retry
CONF
    exim4 -bdf -q1s -oP /var/spool/exim4/pid >"$folder/log" 2>&1 &
    child=$!
}

opensmtpd() {
    user opensmtpd
    user opensmtpq
    mkdir -p /var/lib/opensmtpd/empty /var/spool/smtpd /etc/real
    chmod 711 /var/spool/smtpd
    cat >/etc/real/smtpd.conf <<CONF
listen on 127.0.0.1 port $port hostname mx.opensmtpd.example
action "back" relay host "smtp://127.0.0.1:$back"
action "out" relay host "smtp://127.0.0.1:$out"
match from any for domain "bounce.example" action "back"
match from any for any action "out"
CONF
    start_opensmtpd
    later=opensmtpd_later
}

start_opensmtpd() {
    smtpd -d -f /etc/real/smtpd.conf >>"$folder/log" 2>&1 &
    child=$!
}

# It gives up after four days. Once nothing is left but the copy that was put off, it is stopped, that
# copy, a file of text, is made older, and it goes on. Nothing else can be lost or come twice by that.
opensmtpd_later() {
    until is_put_off; do
        # That the input has ended says that nobody waits any more.
        read -rt 0.1 _ || [ $? -gt 128 ] || exit
    done
    kill "$child"
    wait "$child" || true
    find "$queued" -name '????????????????' \
        -exec sed -i "s/^ctime: .*/ctime: $(($(date +%s) - 5 * 86400))/" {} +
    start_opensmtpd
}

is_put_off() {
    queued=/var/spool/smtpd/queue
    grep -q 'to=<late@.*result="TempFail"' "$folder/log" || return
    local left
    left=$(find "$queued" -name '????????????????' 2>/dev/null) || return
    [ "$(wc -l <<<"$left")" = 1 ] && grep -qs '^dest: late@' "$left"
}

sendmail() {
    user smmta
    mkdir -p /var/spool/real-mqueue /etc/mail
    chmod 700 /var/spool/real-mqueue
    local hop="P=[IPC], F=mDFMuXa, S=EnvFromSMTP/HdrFromSMTP, R=EnvToSMTP, E=\\r\\n, L=990, T=DNS/RFC822/SMTP"
    {
        cat <<CONF
define(\`_CF_DIR_', \`/usr/share/sendmail/cf/')
include(\`/usr/share/sendmail/cf/m4/cf.m4')
OSTYPE(\`linux')
define(\`confDOMAIN_NAME', \`mx.sendmail.example')
define(\`ALIAS_FILE', \`')
define(\`STATUS_FILE', \`')
define(\`confCW_FILE', \`')
define(\`confPID_FILE', \`/var/spool/real-mqueue/pid')
define(\`QUEUE_DIR', \`/var/spool/real-mqueue')
define(\`confDEF_USER_ID', \`smmta')
define(\`confTO_QUEUERETURN', \`1s')
define(\`confTO_IDENT', \`0')
define(\`confTO_HOSTSTATUS', \`0')
define(\`confQUEUE_LA', \`1000')
define(\`confREFUSE_LA', \`1000')
FEATURE(\`no_default_msa')
FEATURE(\`nocanonify')
FEATURE(\`accept_unresolvable_domains')
FEATURE(\`promiscuous_relay')
DAEMON_OPTIONS(\`Name=MTA, Addr=127.0.0.1, Port=$port')
MAILER(\`local')
MAILER(\`smtp')
MAILER_DEFINITIONS
CONF
        local name to
        for name in "back $back" "late 1" "out $out"; do
            to=${name#* }
            printf 'M%s, %s, A=TCP $h %s\n' "${name% *}" "$hop" "$to"
        done
        printf 'LOCAL_RULE_0\n'
        printf 'R$* <@bounce.example$*> $*\t$#back $@ [127.0.0.1] $: $1 <@bounce.example> $3\n'
        printf 'Rlate <@dest.example$*> $*\t$#late $@ [127.0.0.1] $: late <@dest.example> $2\n'
        printf 'R$+ <@$+> $*\t$#out $@ [127.0.0.1] $: $1 <@$2> $3\n'
    } >/etc/mail/real.mc
    m4 /etc/mail/real.mc >/etc/mail/real.cf
    chmod 644 /etc/mail/real.cf
    /usr/libexec/sendmail/sendmail -bD -q1s -C /etc/mail/real.cf >"$folder/log" 2>&1 &
    child=$!
}

# It takes one mail at a time, from a file that is named after sender and recipient. It gives up when
# a mail is older than five days, as each is by the time it is tried.
dma() {
    user mail
    mkdir -p /var/spool/dma /etc/dma
    chown root:mail /var/spool/dma
    chmod 2775 /var/spool/dma
    printf 'SMARTHOST 127.0.0.1\nPORT %s\nMAILNAME mx.dma.example\nDEFER\n' "$out" >/etc/dma/dma.conf
    local letter name
    for letter in "$folder"/letters/*; do
        name=${letter##*/}
        /usr/sbin/dma -D -f "${name%,*}" "${name#*,}" <"$letter" >>"$folder/log" 2>&1
        touch -d '6 days ago' /var/spool/dma/Q*
        /usr/sbin/dma -D -q >>"$folder/log" 2>&1
    done
    echo started
    exit
}

later=:
"$server"
trap 'kill "$child" 2>/dev/null; wait "$child" 2>/dev/null || true' EXIT
# It is there when somebody answers.
for _ in $(seq 1200); do
    if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then break; fi
    kill -0 "$child" || break
    sleep 0.1
done
echo started
while read -r _; do "$later"; done
