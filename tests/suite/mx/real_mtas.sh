#!/usr/bin/env bash
# Runs three real mail servers, each with files of its own, in the network and mount namespaces it is
# started in, until it is told to stop. Nothing of the machine's own /etc, /usr and /var is changed:
# they are covered. Arguments: the folder of unpacked programs, a folder for mail and logs, the
# addresses of Postfix, OpenSMTPD and Exim.
set -euo pipefail
programs=$1 folder=$2 postfix=$3 postfix6=$4 opensmtpd=$5 exim=$6
. "$(dirname "$0")/../covered.sh"
for name in opensmtpd opensmtpq Debian-exim reader; do
    user "$name"
done
mkdir -p "$folder"/kept/{postfix,opensmtpd,exim}
chmod 711 "$folder" "$folder/kept"
chown reader:reader "$folder"/kept/*
users=(ada bela carl dora emil)
cert=$folder/mx.pem key=$folder/mx.key

# Postfix
mkdir -p /etc/real-postfix /var/real-postfix/{queue,data}
chown postfix /var/real-postfix/data
for user in "${users[@]}"; do
    echo "$user@postfix.example $user/"
    echo "$user@six.example $user/"
done >/etc/real-postfix/mailboxes
cat >/etc/real-postfix/main.cf <<CONF
compatibility_level = 3.6
queue_directory = /var/real-postfix/queue
data_directory = /var/real-postfix/data
maillog_file = $folder/postfix.log
maillog_file_prefixes = $folder
myhostname = mx.postfix.example
inet_interfaces = $postfix, $postfix6
mydestination =
mynetworks =
alias_maps =
local_recipient_maps =
virtual_mailbox_domains = postfix.example, six.example
virtual_mailbox_base = $folder/kept/postfix
virtual_mailbox_maps = texthash:/etc/real-postfix/mailboxes
virtual_uid_maps = static:$(id -u reader)
virtual_gid_maps = static:$(id -g reader)
smtpd_tls_security_level = may
smtpd_tls_cert_file = $cert
smtpd_tls_key_file = $key
smtpd_peername_lookup = no
CONF
sed 's/^127\.0\.0\.1:@PORT@/smtp/' "$(dirname "$0")/../postfix/master.cf" >/etc/real-postfix/master.cf
env -u LD_LIBRARY_PATH postfix -c /etc/real-postfix start

# OpenSMTPD
mkdir -p /var/lib/opensmtpd/empty /var/spool/smtpd /etc/real
chmod 711 /var/spool/smtpd
pairs=$(printf '"%s@opensmtpd.example" = "reader", ' "${users[@]}")
cat >/etc/real/smtpd.conf <<CONF
pki own cert "$cert"
pki own key "$key"
listen on $opensmtpd port 25 tls pki own hostname mx.opensmtpd.example
table people { ${pairs%, } }
action "keep" maildir "$folder/kept/opensmtpd/%{dest.user}" virtual <people>
match from any for domain "opensmtpd.example" action "keep"
CONF
smtpd -d -f /etc/real/smtpd.conf >"$folder/opensmtpd.log" 2>&1 &
opensmtpd_id=$!

# Exim
mkdir -p /var/spool/exim4 /var/log/exim4 /etc/exim4
chown Debian-exim:Debian-exim /var/spool/exim4 /var/log/exim4
local_parts=$(printf '%s : ' "${users[@]}")
cat >/etc/exim4/exim4.conf <<CONF
primary_hostname = mx.exim.example
local_interfaces = $exim
daemon_smtp_ports = 25
log_file_path = /var/log/exim4/%slog
tls_advertise_hosts = *
tls_certificate = $cert
tls_privatekey = $key
host_lookup =
rfc1413_hosts =
acl_smtp_rcpt = rcpt
begin acl
rcpt:
  accept domains = exim.example
         local_parts = ${local_parts% : }
  deny message = 5.1.1 no such mailbox here
begin routers
all:
  driver = accept
  local_parts = ${local_parts% : }
  transport = keep
begin transports
keep:
  driver = appendfile
  maildir_format
  create_directory
  directory = $folder/kept/exim/\$local_part_data
  user = reader
  group = reader
begin retry
* * F,1h,1m
CONF
cp "$key" /etc/real/exim.key && chown Debian-exim /etc/real/exim.key
sed -i "s|^tls_privatekey.*|tls_privatekey = /etc/real/exim.key|" /etc/exim4/exim4.conf
exim4 -bdf >"$folder/exim.log" 2>&1 &
exim_id=$!

echo started
read -r _ || true
kill "$opensmtpd_id" "$exim_id" || true
env -u LD_LIBRARY_PATH postfix -c /etc/real-postfix stop || true
