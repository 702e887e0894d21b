# Read by the scripts that run real mail servers in a mount namespace, which set $programs, the folder of
# unpacked programs, and $folder, one for what is covered. Nothing of the machine's own /etc, /usr, /var
# and /run is changed from here on: they are covered.
# shellcheck shell=bash
export LD_LIBRARY_PATH="$programs/usr/lib/x86_64-linux-gnu:$programs/lib/x86_64-linux-gnu"
covers=$(mktemp -d "$folder/covers.XXXX")
mount --make-rprivate /
mount -t tmpfs tmpfs "$covers"
mkdir "$covers"/{etc,etc-work,var,var-work}
cover() { mount -t overlay overlay -o "lowerdir=$1,upperdir=$covers/$2,workdir=$covers/$2-work" "/$2"; }
mount -t overlay overlay -o "lowerdir=$programs/usr:/usr" /usr
cover /etc etc
cover /var var
# Sockets of one run are not those of another: OpenSMTPD starts only where nobody answers at its own.
mount -t tmpfs tmpfs /run

# Makes sure that there is a user of this name, and a group.
user() {
    grep -q "^$1:" /etc/passwd && return
    local id=$((7000 + RANDOM % 20000))
    echo "$1:x:$id:$id::/nonexistent:/bin/false" >>/etc/passwd
    echo "$1:x:$id:" >>/etc/group
}
