{
  # Release is what ships; Debug is the same under AddressSanitizer and UndefinedBehaviorSanitizer.
  'target_defaults': {
    'include_dirs': ['.'],
    'defines': ['_GNU_SOURCE'],
    'cflags': ['-Wall', '-Wextra', '-Werror', '-Wno-missing-field-initializers', '-fvisibility=hidden'],
    'cflags_cc': ['-std=c++20'],
    'cflags_cc!': ['-fno-exceptions', '-fno-rtti', '-std=gnu++17', '-std=gnu++20'],
    'configurations': {
      'Release': {
        'cflags': ['-O2', '-D_FORTIFY_SOURCE=2', '-fstack-protector-strong'],
        'ldflags': ['-Wl,-z,relro,-z,now'],
      },
      'Debug': {
        # Not vptr: Node brings a C++ runtime of its own, whose type information is not the sanitizer's.
        'cflags': ['-g', '-O1', '-fno-omit-frame-pointer', '-fsanitize=address,undefined', '-fno-sanitize=vptr',
                   '-fno-sanitize-recover=undefined'],
        'ldflags': ['-fsanitize=address,undefined'],
      },
    },
  },
  'targets': [
    {
      'target_name': 'core',
      'type': 'static_library',
      'cflags': ['-fPIC'],
      'sources': [
        'native/install.cc',
        'native/netns.cc',
        'native/nftables/again.cc',
        'native/nftables/channel.cc',
        'native/nftables/decode.cc',
        'native/nftables/encode.cc',
        'native/nftables/install.cc',
        'native/nftables/missing.cc',
        'native/nftables/netlink.cc',
        'native/nftables/parse.cc',
        'native/nftables/read.cc',
        'native/nftables/validate.cc',
        'native/nftables/write.cc',
        'native/route.cc',
        'native/workers.cc',
        'native/xtables/decode.cc',
        'native/xtables/encode.cc',
        'native/xtables/install.cc',
        'native/xtables/replay.cc',
        'native/xtables/table.cc',
      ],
      'link_settings': {'libraries': ['-lip4tc', '-lip6tc', '-lmnl']},
    },
    {
      'target_name': 'ipnc',
      'dependencies': ['core'],
      'include_dirs': ["<!(node -p \"require('node-addon-api').include_dir\")"],
      'defines': ['NAPI_VERSION=8', 'NAPI_CPP_EXCEPTIONS'],
      'sources': ['native/addon.cc', 'native/from_js.cc', 'native/to_js.cc'],
    },
    {
      # Stand-ins for the demo and the tests; static, so that it runs in any mount namespace and under any uid.
      'target_name': 'toolbox',
      'type': 'executable',
      'sources': [
        'native/toolbox/common.cc',
        'native/toolbox/deny.cc',
        'native/toolbox/dial.cc',
        'native/toolbox/farm.cc',
        'native/toolbox/main.cc',
        'native/toolbox/serve.cc',
      ],
      'ldflags': ['-static'],
      'configurations': {
        'Debug': {
          'cflags!': ['-fsanitize=address,undefined', '-fno-sanitize=vptr', '-fno-sanitize-recover=undefined'],
          'ldflags!': ['-fsanitize=address,undefined'],
        },
      },
    },
    {
      'target_name': 'native_test',
      'type': 'executable',
      'dependencies': ['core'],
      'sources': [
        'test/native/main.cc',
        'test/native/encode_test.cc',
        'test/native/netns_test.cc',
        'test/native/nft_encode_test.cc',
        'test/native/nft_fault_test.cc',
        'test/native/nft_install_test.cc',
        'test/native/rollback_test.cc',
      ],
      'ldflags': [
        '-pthread', '-rdynamic', '-Wl,--wrap=setns', '-Wl,--wrap=send', '-Wl,--wrap=recv', '-Wl,--wrap=ioctl',
        '-Wl,--wrap=flock', '-Wl,--wrap=read', '-Wl,--wrap=open64',
      ],
    },
    {
      'target_name': 'drivers',
      'type': 'executable',
      'dependencies': ['core'],
      'sources': ['bench/drivers.cc'],
      'ldflags': ['-pthread'],
    },
  ],
}
